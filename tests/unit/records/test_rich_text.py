from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from record_examples import DOCUMENTS, full

from indexer.records.rich_text import all_facets, plain_text
from indexer.records.tags import normal_tag

ITEMS = {
    "textItem": ({"type": "text", "content": "said"}, "said"),
    "nodeRefItem": ({"type": "nodeRef", "label": "said"}, "said"),
    "wikidataRefItem": ({"type": "wikidataRef", "qid": "Q1", "label": "said"}, "said"),
    "fieldRefItem": ({"type": "fieldRef", "label": "said"}, "said"),
    "facetRefItem": ({"type": "facetRef", "label": "said"}, "said"),
    "eprintRefItem": ({"type": "eprintRef", "label": "said"}, "said"),
    "annotationRefItem": ({"type": "annotationRef", "label": "said"}, "said"),
    "authorRefItem": ({"type": "authorRef", "label": "said"}, "said"),
    "mentionItem": ({"type": "mention", "did": "did:web:x.org", "handle": "said.org"}, "@said.org"),
    "linkItem": ({"type": "link", "url": "https://said.org"}, "https://said.org"),
    "tagItem": ({"type": "tag", "tag": "said"}, "#said"),
    "latexItem": ({"type": "latex", "content": "said"}, "said"),
    "codeBlockItem": ({"type": "codeBlock", "content": "said"}, "said"),
    "headingItem": ({"type": "heading", "content": "said", "level": 1}, "said"),
    "listItem": ({"type": "listItem", "content": "said", "listType": "bullet"}, "said"),
    "blockquoteItem": ({"type": "blockquote", "content": "said"}, "said"),
}


def test_all_kinds_of_the_lexicon_are_tried_here():
    items = DOCUMENTS["pub.chive.eprint.submission"]["defs"]["main"]["record"]["properties"]
    refs = items["abstract"]["items"]["refs"]
    assert {ref.partition("#")[2] for ref in refs} == set(ITEMS)
    assert len(refs) == 16


@pytest.mark.parametrize("name", ITEMS)
def test_every_kind_is_read(name):
    item, said = ITEMS[name]
    assert plain_text([item]) == said
    by_type_name = {k: v for k, v in item.items() if k != "type"}
    assert plain_text([{"$type": f"pub.chive.richtext.defs#{name}"} | by_type_name]) == said


def test_inline_items_follow_each_other_and_blocks_stand_alone():
    items = [
        {"type": "text", "content": "See "},
        {"type": "latex", "content": "x"},
        {"type": "text", "content": "."},
        {"type": "heading", "content": "Next", "level": 2},
        {"type": "listItem", "content": "one", "listType": "bullet"},
        {"type": "latex", "content": "y", "displayMode": True},
        {"type": "text", "content": "end"},
    ]
    assert plain_text(items) == "See x.\nNext\none\ny\nend"


def test_items_of_unknown_kinds_are_skipped():
    items = [{"type": "text", "content": "a"}, {"$type": "x.y.z#new", "content": "b"}, 5, None]
    assert plain_text(items) == "a"


def test_full_abstract_has_a_word_of_every_item():
    abstract = full("pub.chive.eprint.submission")["abstract"]
    assert plain_text(abstract).count("Ä word") >= 12


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "$type", "content", "label", "facets", "handle", "did"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=10,
)


@given(JSON)
def test_any_value_gives_text_and_facets(value):
    assert isinstance(plain_text(value), str)
    assert isinstance(all_facets(value), list)


@pytest.mark.parametrize(
    ("tag", "normal"),
    [
        ("Deep_Learning!", "deep learning"),
        ("deep   learning", "deep learning"),
        ("#NLP", "nlp"),
        (":#NLP", "nlp"),
        ("C++", "c++"),
        ("C", "c"),
        ("機械 学習", "機械 学習"),
        ("Straße", "strasse"),
        ("Ünïcode", "ünïcode"),
        ("中文", "中文"),
        ("🚀", "🚀"),
        ("", ""),
    ],
)
def test_normal_form_keeps_every_script(tag, normal):
    assert normal_tag(tag) == normal


@given(st.text(max_size=40))
def test_normal_form_is_stable(tag):
    assert normal_tag(normal_tag(tag)) == normal_tag(tag)

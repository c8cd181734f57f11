"""The labelled set: documents in many styles and layouts, each with the works that it cites."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from tests.documents import styles
from tests.documents.layout import Paragraph, set_pages
from tests.documents.pdf import write_pdf
from tests.documents.works import MEANS, SUBJECTS, Work, works

Label = Callable[[int, Work], str]


@dataclass(frozen=True)
class LabelledDocument:
    """A PDF and what it cites."""

    name: str
    data: bytes
    works: tuple[Work, ...]
    has_titles: bool = True  # whether its style names the titles of works


def bracketed(number: int, _: Work) -> str:
    return f"[{number}] "


def dotted(number: int, _: Work) -> str:
    return f"{number}. "


def alpha(_: int, work: Work) -> str:
    return f"[{work.authors[0][1][:3]}{work.year % 100:02}] "


def none(_: int, __: Work) -> str:
    return ""


@dataclass(frozen=True, kw_only=True)
class _Recipe:
    style: styles.Style
    label: Label = none
    heading: str = "References"
    hanging: float = 0.0
    columns: int = 1
    hyphenates: bool = False
    header: str | None = None
    is_numbered: bool = False
    appendix: bool = False
    count: int = 16
    has_titles: bool = True
    change: Callable[[Work, int], Work] = lambda work, _: work


def _cyrillic(work: Work, at: int) -> Work:
    surnames = ("Соколова", "Иванов", "Кузнецова", "Морозов")
    subjects = ("речных наносов", "городской речи", "роста кораллов", "движения ледников")
    kinds = ("Методы измерения", "Моделирование", "Статистика", "История изучения", "Прогноз")
    places = (
        "в северных районах",
        "по данным наблюдений",
        "при неполных данных",
        "за двадцать лет",
    )
    title = f"{kinds[at % 5]} {subjects[at // 5 % 4]} {places[at * 3 % 4]}"
    people = tuple(("АБВГД"[(at + n) % 5], surnames[(at + n) % 4]) for n in range(1 + at % 2))
    return replace(work, title=title, authors=people, venue="Вестник наблюдений")


def _chinese(work: Work, at: int) -> Work:
    kinds = (
        "河流泥沙的测量方法",
        "城市声景的统计模型",
        "珊瑚生长速率估计",
        "冰川径流的长期预测",
        "词汇借用的网络分析",
    )
    places = ("基于卫星图像", "在小样本条件下", "及其局限性", "的比较研究")
    people = (("伟", "王"), ("静", "李"), ("敏", "张"), ("磊", "刘"))
    return replace(
        work,
        title=kinds[at % 5] + places[at // 5 % 4],
        authors=people[at % 4 : at % 4 + 2],
        venue="观测学报",
    )


_RECIPES: dict[str, _Recipe] = {
    "ieee numbered": _Recipe(style=styles.ieee, label=bracketed, hanging=18),
    "ieee two columns hyphenated": _Recipe(
        style=styles.ieee,
        label=bracketed,
        hanging=18,
        columns=2,
        hyphenates=True,
        is_numbered=True,
        count=30,
    ),
    "apa hanging": _Recipe(
        style=styles.apa, hanging=24, header="MARSH AND METHOD", is_numbered=True
    ),
    "apa flush": _Recipe(style=styles.apa),
    "vancouver dotted": _Recipe(style=styles.vancouver, label=dotted, heading="REFERENCES"),
    "nature numbered": _Recipe(style=styles.nature, label=dotted, columns=2, count=24),
    "acl two columns": _Recipe(
        style=styles.acl, hanging=10, columns=2, hyphenates=True, appendix=True, count=24
    ),
    "acm bracketed": _Recipe(style=styles.acm, label=bracketed, columns=2, heading="REFERENCES"),
    "chicago author-date": _Recipe(style=styles.chicago, hanging=24, heading="Bibliography"),
    "mla": _Recipe(style=styles.mla, hanging=36, heading="Works Cited"),
    "harvard flush": _Recipe(style=styles.harvard, heading="7. References", is_numbered=True),
    "springer dotted": _Recipe(
        style=styles.springer, label=dotted, hyphenates=True, appendix=True, header="Quiet systems"
    ),
    "alpha labels": _Recipe(style=styles.acl, label=alpha, hanging=30),
    "physics without titles": _Recipe(
        style=styles.physics, label=bracketed, columns=2, has_titles=False
    ),
    "russian": _Recipe(
        style=styles.gost, label=dotted, heading="Список литературы", change=_cyrillic
    ),
    "chinese": _Recipe(style=styles.chinese, label=bracketed, heading="参考文献", change=_chinese),
}


def labelled_documents(seed: int = 1) -> list[LabelledDocument]:
    """The whole set, always the same for a seed."""
    return [labelled_document(name, seed) for name in _RECIPES]


def labelled_document(name: str = "ieee numbered", seed: int = 1) -> LabelledDocument:
    """One of the set."""
    return _document(random.Random(f"{name} {seed}"), name, _RECIPES[name])


def _document(rng: random.Random, name: str, recipe: _Recipe) -> LabelledDocument:
    cited = [recipe.change(work, at) for at, work in enumerate(works(rng, recipe.count))]
    if recipe.label is none or recipe.label is alpha:
        cited.sort(key=lambda work: (work.authors[0][1], work.year))
    entries = [
        Paragraph(recipe.label(at, work) + recipe.style(work), 0.0, recipe.hanging)
        for at, work in enumerate(cited, start=1)
    ]
    paragraphs = [
        Paragraph("A study of nothing in particular"),
        *_body(rng, cited),
        Paragraph(recipe.heading),
        *entries,
    ]
    if recipe.appendix:
        paragraphs += [Paragraph("Appendix A"), *_body(rng, cited)]
    pages = set_pages(
        paragraphs,
        columns=recipe.columns,
        hyphenates=recipe.hyphenates,
        header=recipe.header,
        is_numbered=recipe.is_numbered,
    )
    return LabelledDocument(name, write_pdf(pages), tuple(cited), recipe.has_titles)


def _body(rng: random.Random, cited: Sequence[Work]) -> list[Paragraph]:
    """Prose that mentions years, names and references without being one."""
    paragraphs = []
    for number in range(1, 7):
        sentences = [
            f"As {rng.choice(cited).authors[0][1]} et al. ({rng.randint(1990, 2024)}) note, the references on"
            f" {rng.choice(SUBJECTS)} {rng.choice(MEANS)} differ [{rng.randint(1, 12)}]."
            for _ in range(8)
        ]
        paragraphs += [
            Paragraph(f"{number} On {rng.choice(SUBJECTS)}"),
            Paragraph(" ".join(sentences), 12.0),
        ]
    return paragraphs

"""Mutated inputs for everything that reads what strangers send.

Each target makes inputs (bytes, so that any of them can be saved and repeated) and judges what the
product makes of one. Encoders, decoders and signatures here are the devnet's and `strict_cbor`'s:
none of the code under test decides what is right.
"""

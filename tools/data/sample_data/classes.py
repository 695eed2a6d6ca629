"""The twenty classes of the sample data: identifiers, names and what shows each of them.

A WordNet identifier is `n` and the byte offset of the noun in WordNet's data file. That file ends
before offset 15,400,000 in WordNet 3.0 and 3.1, so identifiers from n90000000 on can never be
taken for a class of ImageNet.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SampleClass:
    """One class."""

    wnid: str
    """Its identifier: `n` and eight digits."""
    words: str
    """Its names, as LOC_synset_mapping.txt has them."""
    gloss: str
    """What it shows, as meta.mat has it."""
    photos: tuple[str, ...] = ()
    """The photographs it is cut from; empty for a class of drawn objects."""
    shape: str = ""
    """The drawn object (objects.SHAPES); empty for a class of photographs."""

    @property
    def number(self) -> int:
        """The identifier as a number, which seeds the pictures of this class."""
        return int(self.wnid[1:])


def _photo_class(wnid: str, words: str, *photos: str) -> SampleClass:
    return SampleClass(wnid, words, f"a part of the photograph {photos[0]}", photos=photos)


def _object_class(wnid: str, words: str, shape: str) -> SampleClass:
    return SampleClass(wnid, words, f"a drawn {shape} in front of a photograph", shape=shape)


# This is the order of ILSVRC2012_ID. The identifiers are not in this order on purpose, as in the
# real development kit: a reader that takes the position in one order for the other must fail.
CLASSES: tuple[SampleClass, ...] = (
    _object_class("n93120577", "star, pointed star", "star"),
    _photo_class("n90441208", "tabby, tabby cat", "chelsea"),
    _object_class("n91873350", "ring, hoop", "ring"),
    _photo_class("n94206619", "espresso, cup of coffee", "coffee"),
    _photo_class("n90098842", "motorcycle, bike", "motorcycle_left", "motorcycle_right"),
    _object_class("n92655013", "cross, plus sign", "cross"),
    _object_class("n90732964", "spiral, coil", "spiral"),
    _photo_class("n93987105", "rocket, launch pad", "rocket"),
    _object_class("n94510027", "beach ball, checkered ball", "ball"),
    _photo_class("n91320486", "pagoda, tower", "china"),
    _object_class("n92007731", "arrow, pointer", "arrow"),
    _photo_class("n90915520", "dahlia, Dahlia pinnata", "flower"),
    _photo_class("n93564418", "astronaut, spacewoman", "astronaut"),
    _object_class("n91108093", "gear, gear wheel, cogwheel", "gear"),
    _photo_class("n92881246", "naval officer, rear admiral", "grace_hopper"),
    _object_class("n94833702", "crescent, half-moon", "crescent"),
    _photo_class("n91594867", "tissue, microscope slide", "ihc"),
    _object_class("n90266135", "heart, valentine", "heart"),
    _photo_class("n92319978", "coin, coin collection", "coins"),
    _object_class("n93375280", "ladder", "ladder"),
)
GROUPS: tuple[tuple[str, str, str], ...] = (
    ("n95000001", "photograph, photo", "a class of crops from one photograph"),
    ("n95000002", "drawn object, figure", "a class of objects drawn by a program"),
)
"""Identifier, words and gloss of the two inner nodes above the classes: photographs, objects."""

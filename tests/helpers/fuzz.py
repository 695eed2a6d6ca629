"""Damage datasets in many ways, and read each through an engine, in a process of its own.

python tests/helpers/fuzz.py --mutants 2000 --engine ffcv --seed 0

Each mutant must end in one clear error, or show what PIL makes of the bytes that its index points
at, of the size that its index says. A signal, a hang, another exception or another pixel is a
fault; the files of those are kept.
"""

from __future__ import annotations

import argparse
import io
import logging
import random
import re
import select
import shutil
import struct
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

LIMIT_S = 60.0
SIDE = 32
SAME, REFUSED = "same", "refused"


# ---- what is damaged -----------------------------------------------------------------------------
def encoded(number: int) -> bytes:
    """One of twelve images of as many kinds."""
    rng = np.random.default_rng(number)
    rough = Image.fromarray(rng.integers(0, 256, (9, 7, 3), dtype=np.uint8))
    image = rough.resize((60 + 7 * number, 90 - 5 * number), Image.Resampling.BICUBIC)
    options: dict[str, Any] = {"quality": 60 + 3 * number}
    if number % 4 == 1:
        options["progressive"] = True
    if number % 4 == 2:
        image = image.convert("L")
    if number % 4 == 3:
        exif = image.getexif()
        exif[0x0112], exif[0x010F] = 6, "a camera"
        options |= {"exif": exif, "icc_profile": bytes(range(200)), "comment": b"a comment"}
    if number == 5:
        options |= {"subsampling": 0, "restart_marker_blocks": 3}
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


def make_originals(folder: Path) -> list[Path]:
    """Twelve images as .beton of ours, with raw ones and without, and of FFCV's own writer."""
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter

    from fastdeit.tools.data.convert.command import convert

    source = folder / "source"
    for number in range(12):
        path = source / "ab"[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(number))
    ours, mixed, theirs, shards = (folder / n for n in ("o.beton", "m.beton", "f.beton", "shards"))
    convert(source, ours, workers=1)
    convert(source, mixed, mode="proportion", workers=1)
    convert(source, shards, workers=1)

    class Pairs:
        def __len__(self) -> int:
            return 12

        def __getitem__(self, number: int) -> tuple[Image.Image, int]:
            return Image.open(io.BytesIO(encoded(int(number)))).convert("RGB"), int(number) % 2

    fields = {"image": RGBImageField(write_mode="proportion"), "label": IntField()}
    DatasetWriter(str(theirs), fields, num_workers=1).from_indexed_dataset(Pairs())
    return [ours, mixed, theirs, shards / "shard-000000.tar"]


def damage(data: bytes, rng: random.Random) -> tuple[bytes, str]:
    """A file with something wrong in it, and what."""
    made, size = bytearray(data), len(data)
    # Most of a .beton is empty, up to its first page: what is not empty is hit.
    held = np.flatnonzero(np.frombuffer(data, np.uint8))
    low = int(np.searchsorted(held, 4096))
    at = int(held[rng.randrange(low) if rng.random() < 0.4 else rng.randrange(len(held))])
    kind = rng.choice(("bit", "byte", "word", "scale", "burst", "copy", "swap", "cut", "insert"))
    width = rng.choice((2, 4, 8))
    if kind == "bit":
        made[at] ^= 1 << rng.randrange(8)
    elif kind == "byte":
        made[at] = rng.choice((0, 1, 2, 0x7F, 0x80, 0xD8, 0xD9, 0xFF, rng.randrange(256)))
    elif kind == "word":
        value = rng.choice(
            (0, 1, 255, 65535, 1 << 31, (1 << 63) - 1, (1 << 64) - 1, size, size - 1)
        )
        made[at : at + width] = (value & ((1 << 8 * width) - 1)).to_bytes(width, "little")
    elif kind == "scale":
        value = int.from_bytes(made[at : at + width], "little") * rng.choice((2, 3, 5)) + 1
        made[at : at + width] = (value & ((1 << 8 * width) - 1)).to_bytes(width, "little")
    elif kind == "burst":
        for place in range(at, min(at + rng.randrange(1, 64), size)):
            made[place] = rng.randrange(256)
    elif kind == "copy":
        other, count = int(rng.choice(held)), rng.randrange(1, 512)
        made[at : at + count] = made[other : other + count]
    elif kind == "swap":
        other = int(rng.choice(held))
        one, two = made[at : at + 24], made[other : other + 24]
        made[at : at + 24], made[other : other + 24] = two, one
    elif kind == "cut":
        del made[at:]
    else:
        made[at:at] = rng.randbytes(rng.randrange(1, 64))
    return bytes(made), f"{kind} at {at}"


def damage_image(data: bytes, rng: random.Random) -> tuple[bytes, str]:
    """The same within one of the JPEGs, where most decoders' faults are."""
    at = rng.choice([found.start() for found in re.finditer(b"\xff\xd8\xff", data)])
    made, kind = bytearray(data), rng.choice(("head", "length", "scan", "marker", "zero"))
    if kind == "head":
        made[at + rng.randrange(2, 700)] = rng.randrange(256)
    elif kind == "length":
        place = at + 2
        for _ in range(rng.randrange(8)):
            place += 2 + struct.unpack_from(">H", made, place + 2)[0]
            if made[place] != 0xFF or made[place + 1] == 0xDA:
                break
        made[place + 2 : place + 4] = struct.pack(">H", rng.choice((0, 1, 2, 3, 7, 9, 65535)))
    elif kind == "scan":
        for _ in range(rng.randrange(1, 5)):
            made[at + rng.randrange(700, 2000)] ^= 1 << rng.randrange(8)
    elif kind == "marker":
        place = at + rng.randrange(600, 2000)
        made[place : place + 2] = bytes([0xFF, rng.randrange(0xC0, 0x100)])
    else:
        place, count = at + rng.randrange(2, 2000), rng.randrange(1, 300)
        made[place : place + count] = bytes(count)
    return bytes(made[: len(data)]), f"{kind} of the image at {at}"


# ---- what is shown of it -------------------------------------------------------------------------
def truth(index: Any, sample: int) -> NDArray[np.uint8] | None:
    """What PIL makes of the bytes of a sample; None if it refuses, or the size is another."""
    file = index.files[index.file_ids[sample]].read_bytes()
    begin = int(index.offsets[sample])
    data = file[begin : begin + int(index.sizes[sample])]
    height, width = int(index.heights[sample]), int(index.widths[sample])
    if index.modes[sample] == 1:
        return np.frombuffer(data, np.uint8).reshape(height, width, 3)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data)).convert("RGB")
    except Exception:
        return None
    return np.asarray(image) if image.size == (width, height) else None


def verdict(path: Path, engine: Any) -> str:
    """Read one epoch of a dataset, and compare it with PIL: `SAME`, `REFUSED` or what is wrong."""
    from fastdeit import UserError
    from fastdeit.pipelines.datasets.index import open_dataset
    from fastdeit.pipelines.engines.pil_engine import resample_with_pil
    from fastdeit.pipelines.engines.pipeline import PipelineOptions
    from fastdeit.pipelines.open import open_pipeline
    from fastdeit.pipelines.plan.crops import plan_cuts
    from fastdeit.pipelines.plan.order import Plan, StepPlan

    try:
        index = open_dataset(path)
        plan = Plan(keys=index.keys, batch_size=8, image_size=SIDE, is_training=True, repeats=2)
        options = PipelineOptions(threads=2, bad_images="skip")
        shown = Counter[int]()
        number_of = {int(key): number for number, key in enumerate(index.keys)}
        with open_pipeline(index, plan, engine, options) as batches:
            for batch in batches:
                samples = np.array([number_of[int(key)] for key in batch.sample_keys])
                cuts = plan_cuts(plan, index, StepPlan(0, batch.step, samples, batch.copies))
                for place, sample in enumerate(samples.tolist()):
                    pixels = truth(index, sample)
                    if pixels is None:
                        return f"sample {sample} is shown, which PIL refuses"
                    image = Image.fromarray(pixels)
                    expected = resample_with_pil(image, cuts[place], SIDE)
                    if not np.array_equal(batch.images_nhwc_u8[place].numpy(), expected):
                        return f"sample {sample} is shown as something else"
                    if int(batch.labels[place]) != int(index.labels[sample]):
                        return f"sample {sample} has another label"
                    shown[sample] += 1
            for sample in batches.replacements.by_sample:
                if truth(index, sample) is not None:
                    return f"sample {sample} is left out, which PIL shows"
        return SAME if shown else "nothing is shown"
    except UserError:
        return REFUSED
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def read_many(engine: str) -> None:
    """Judge each file that is named on the standard input; a line for each."""
    logging.disable()
    for line in sys.stdin:
        print(" ".join(verdict(Path(line.strip()), engine).split()), flush=True)


class Reader:
    """A process that judges files, and is begun anew after its end."""

    def __init__(self, engine: str) -> None:
        """Start with the first file."""
        self._command = [sys.executable, __file__, "--engine", engine, "--read"]
        self._process: subprocess.Popen[str] | None = None

    def judge(self, path: Path) -> str:
        """What `verdict` says, or how the process ended."""
        if self._process is None:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{path}\n")
        self._process.stdin.flush()
        ready, _, _ = select.select([self._process.stdout], [], [], LIMIT_S)
        said = self._process.stdout.readline().strip() if ready else ""
        if said:
            return said
        if ready:
            self._process.wait()
        code = self._process.returncode
        self.close()
        return f"the process ended with {code}" if ready else f"no answer in {LIMIT_S:.0f} s"

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def fuzz(num: int, engine: str, seed: int, folder: Path) -> Iterator[tuple[str, str]]:
    """Yield for each mutant what was damaged and what came of it."""
    originals = [
        path for path in make_originals(folder) if engine != "ffcv" or path.suffix != ".tar"
    ]
    reader = Reader(engine)
    try:
        for original in originals:
            assert reader.judge(original if original.suffix != ".tar" else original.parent) == SAME
        for number in range(num):
            rng = random.Random(f"{seed}/{number}")
            original = originals[number % len(originals)]
            data, what = rng.choice((damage, damage_image))(original.read_bytes(), rng)
            target = folder / "mutant" / original.name
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(data)
            if original.suffix == ".tar":
                shutil.copy(original.parent / "index.safetensors", target.parent)
            found = reader.judge(target if original.suffix != ".tar" else target.parent)
            what = f"mutant {number}, {original.name}, {what}"
            if found not in (SAME, REFUSED):
                shutil.copy(target, folder / f"fault-{number}{target.suffix}")
            yield what, found
            shutil.rmtree(target.parent)
    finally:
        reader.close()


def main() -> int:
    """Run; 1 if there is a fault."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutants", type=int, default=2000)
    parser.add_argument("--engine", default="ffcv")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--read", action="store_true")
    given = parser.parse_args()
    if given.read:
        read_many(given.engine)
        return 0
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    counts = Counter[str]()
    for what, found in fuzz(given.mutants, given.engine, given.seed, folder):
        counts[found if found in (SAME, REFUSED) else "fault"] += 1
        if found not in (SAME, REFUSED):
            print(f"{what}: {found}", flush=True)
    print(f"{dict(counts)}; faults are kept in {folder}")
    return 1 if counts["fault"] else 0


if __name__ == "__main__":
    sys.exit(main())

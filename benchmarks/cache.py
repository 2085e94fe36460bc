"""The cache of features on disk: what reopening costs, and what crashes lose.

reopening
    The features of a micrograph of ``oxide`` (1024 x 1024 by default) are extracted into an empty
    cache; then a fresh process opens the image again: it reads the weights, hashes the pixels and
    loads every pass. Promised: at most 5 % of the extraction.
crashes
    A process that writes 50 entries is killed (SIGKILL) at a random moment, alone or beside a
    second one that writes to the same folder, ``--rounds`` times. Promised: every entry whose
    write had ended is there, and whatever is there is right.

``--check`` ends with code 1 where a promise is missed. Without the benchmark data the program says
so and ends with code 0.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
import warnings

import torch
from _data import folder, samples
from rich.console import Console
from rich.table import Table

from napari_hrdv2 import FeatureExtractor, HRDv2Error
from napari_hrdv2.core.cache import TokenStore

PASSES, ENTRIES, SHAPE = 16, 50, (37, 37, 384)
_BUDGET = 10**9


def tokens_of(seed: int) -> torch.Tensor:
    """What the entry of a number holds."""
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed)).half()


def key_of(seed: int) -> str:
    """Its key."""
    return f"{seed:064x}"


def write(path: str, first: int) -> None:
    """Write 50 entries, telling of each that is done."""
    store = TokenStore(path, _BUDGET)
    for seed in range(first, first + ENTRIES):
        store.save(key_of(seed), tokens_of(seed))
        print(seed, flush=True)


def reopen(options: argparse.Namespace) -> int:
    """In a fresh process: print the seconds until all passes are there."""
    image = samples(folder(), "oxide")[0].image[: options.side, : options.side]
    start = time.perf_counter()
    extractor = FeatureExtractor(
        model=options.model, weights=options.weights, device="cpu", passes=PASSES
    )
    tokens = extractor.extract(image, store=TokenStore(options.reopen, _BUDGET))
    print(time.perf_counter() - start, tokens.passes)
    return 0


def crash(rounds: int, writers: int) -> tuple[int, int, int]:
    """Kill a writer at random; entries finished, lost of these, and wrong ones."""
    finished = lost = wrong = 0
    rng = random.Random(writers)  # noqa: S311, nothing is secret
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as path:
            command = [sys.executable, __file__, "--write", path]
            running = [
                subprocess.Popen(
                    [*command, str(k * ENTRIES // 2)], stdout=subprocess.PIPE, text=True
                )
                for k in range(writers)
            ]
            told = running[0].stdout
            assert told is not None
            done = [int(told.readline()) for _ in range(rng.randrange(1, ENTRIES - 1))]
            time.sleep(rng.uniform(0, 0.01))
            running[0].send_signal(signal.SIGKILL)
            for one in running:
                done += [int(line) for line in one.communicate()[0].split()]
            store = TokenStore(path, _BUDGET)
            for seed in range(ENTRIES * 2):
                found = store.load(key_of(seed))
                lost += found is None and seed in done
                wrong += found is not None and not torch.equal(found, tokens_of(seed))
            finished += len(set(done))
    return finished, lost, wrong


def main() -> int:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="auto", help="backbone (default: auto)")
    parser.add_argument("--weights", help="its checkpoint, instead of a download")
    parser.add_argument("--side", type=int, default=1024, help="pixels (default: 1024)")
    parser.add_argument("--rounds", type=int, default=20, help="crashes of a kind (default: 20)")
    parser.add_argument("--check", action="store_true", help="code 1 where a promise is missed")
    parser.add_argument("--write", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--reopen", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write:
        write(options.write[0], int(options.write[1]))
        return 0
    # A damaged entry warns: the counts below tell.
    warnings.simplefilter("ignore")
    if options.reopen:
        return reopen(options)
    sample = samples(folder(), "oxide")[0]
    table = Table(title="the cache of features")
    table.add_column("what")
    table.add_column("", justify="right")
    missed = []
    with tempfile.TemporaryDirectory() as path, Console(stderr=True).status("extracting"):
        try:
            extractor = FeatureExtractor(
                model=options.model, weights=options.weights, device="cpu", passes=PASSES
            )
        except HRDv2Error as error:
            print(error, file=sys.stderr)
            return 2
        image = sample.image[: options.side, : options.side]
        start = time.perf_counter()
        extractor.extract(image, store=TokenStore(path, _BUDGET))
        extraction = time.perf_counter() - start
        command = [sys.executable, __file__, "--reopen", path, *sys.argv[1:]]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        seconds = float(done.stdout.split()[0])
        size = TokenStore(path, _BUDGET).size
    share = 100 * seconds / extraction
    side = f"{options.side} x {options.side}, {PASSES} passes"
    table.add_row(f"extraction of {side}, s", f"{extraction:.1f}")
    table.add_row("reopening in a fresh process, s", f"{seconds:.2f}")
    table.add_row("  share, promised at most 5 %", f"{share:.1f} %")
    table.add_row("  on disk, MB", f"{size / 1e6:.0f}")
    if share > 5:
        missed.append(f"reopening takes {share:.1f} % of the extraction")
    for writers, name in ((1, "one writer"), (2, "two writers, one")):
        with Console(stderr=True).status("killing"):
            finished, lost, wrong = crash(options.rounds, writers)
        table.add_row(f"{name} killed, {options.rounds} times: entries finished", str(finished))
        table.add_row("  lost or wrong, promised none", f"{lost} + {wrong}")
        if lost or wrong:
            missed.append(f"{lost} finished entries lost and {wrong} wrong with {name} killed")
    Console().print(table)
    for line in missed:
        print(f"missed: {line}")
    return int(options.check and bool(missed))


if __name__ == "__main__":
    sys.exit(main())

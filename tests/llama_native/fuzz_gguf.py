"""Loads damaged copies of a small GGUF file, each in its own process, and counts how that ends.

    python tests/llama_native/fuzz_gguf.py MODEL.gguf --count 400 --seed 1

Each child loads the model, tokenizes, makes a context and decodes one batch. It ends with "loaded" (the damage did not
matter), "refused" (a LlamaError), "caught" (a LlamaError in place of an assertion that would have ended the process),
or "wrong" (another exception), "hung" or "died" (a signal), for which the exit code of this program is 1. Prints one
line of JSON. Forks, so it runs in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import struct
import sys
import tempfile
from collections import Counter
from pathlib import Path

import llama_native as ln
from llama_native.gguf import read_header

SECONDS = 20
OUTCOMES = {0: "loaded", 3: "refused", 4: "caught", 5: "wrong"}
LOADED, REFUSED, CAUGHT, WRONG = OUTCOMES
GOOD = {"loaded", "refused", "caught"}


def damage(data: bytes, header: int, chance: random.Random) -> bytes:
    """Returns a damaged copy of a GGUF file whose header is `header` bytes long."""
    copy = bytearray(data)
    kind = chance.randrange(6)
    where = chance.randrange(header if chance.random() < 0.9 else len(copy))
    if kind == 0:
        copy[where] ^= 1 << chance.randrange(8)
    elif kind == 1:
        copy[where] = chance.randrange(256)
    elif kind == 2:
        end = min(len(copy), where + chance.randrange(1, 16))
        copy[where:end] = chance.randbytes(end - where)
    elif kind == 3:
        values = [0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, chance.randrange(2**16)]
        copy[where : where + 4] = struct.pack("<I", chance.choice(values))
    elif kind == 4:
        del copy[where : where + chance.randrange(1, 64)]
    else:
        del copy[where:]
    return bytes(copy)


def attempt(path: Path) -> int:
    """Does everything with the file that a service would do first. Returns a child's exit code."""
    try:
        with ln.Model(path, ln.ModelParams(devices=())) as model:
            tokens = model.vocab.tokenize("hello world \u2728 <s> 1234", add_special=True, parse_special=True)
            model.vocab.detokenize(tokens)
            model.vocab.token_bytes(0)
            batch = ln.Batch(max(1, len(tokens)))
            batch.extend(tokens, 0, 0, output_last=True)
            with ln.Context(model, ln.ContextParams(n_ctx=256, n_threads=1)) as context:
                context.decode(batch)
                context.memory.remove(0, 1)
    except ln.LlamaError as error:
        return CAUGHT if "GGML_ASSERT" in str(error) or "fatal error" in str(error) else REFUSED
    except Exception as error:  # noqa: BLE001 - that is what a fuzzer looks for
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return WRONG
    return LOADED


def run(path: Path, output: Path) -> str:
    """Runs one attempt in a child process and returns how it ended."""
    child = os.fork()
    if child == 0:
        signal.alarm(SECONDS)
        log = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os._exit(attempt(path))
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return "hung" if number == signal.SIGALRM else f"died: {signal.Signals(number).name}"
    return OUTCOMES.get(os.WEXITSTATUS(status), "wrong")


def main() -> int:
    """Parses the command line, runs all attempts, prints the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a sound GGUF file to damage; small ones are fast")
    parser.add_argument("--count", type=int, default=400, help="how many damaged copies (default 400)")
    parser.add_argument("--seed", type=int, default=1, help="which damages (default 1)")
    parser.add_argument("--header", type=int, default=0, help="bytes to aim at (default: the file's header)")
    parser.add_argument("--verbose", action="store_true", help="show what children that failed printed last")
    options = parser.parse_args()
    data = options.model.read_bytes()
    tensors = sum(-(-t.nbytes // 32) * 32 for t in read_header(options.model).tensors.values())
    header = options.header or len(data) - tensors
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        path, output = Path(folder, "damaged.gguf"), Path(folder, "output")
        for i in range(options.count):
            path.write_bytes(damage(data, header, random.Random(f"{options.seed}:{i}")))
            outcome = run(path, output)
            counts[outcome] += 1
            if options.verbose and outcome not in GOOD:
                print(i, outcome, output.read_text(errors="replace")[-300:].strip(), file=sys.stderr)
    print(json.dumps(dict(sorted(counts.items()))))
    return 0 if set(counts) <= GOOD else 1


if __name__ == "__main__":
    sys.exit(main())

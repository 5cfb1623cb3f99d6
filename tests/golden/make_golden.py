"""Write the golden files of this folder with torch and transformers, which the tests do not need.

    pip install torch transformers gguf accelerate safetensors
    python tests/golden/make_golden.py [SmolLM2-135M-Instruct.Q4_1.gguf]

Tiny random models, one per family, are whole Hugging Face folders plus `expected.npz`: ids [B, T] int32 and logits
[B, T, V] float32. For SmolLM2 (skipped without its GGUF file) `smollm2-135m.npz` keeps, of a few positions, the most
likely ids and some random ones: ids [P, T], positions [P, M], columns [P, M, C], logits [P, M, C].
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

HERE = Path(__file__).parent
SEED = 7
ROWS, LENGTH = 2, 24  # of the tiny models' inputs
TOP, RANDOM = 64, 512  # logits kept of every SmolLM2 position

TINY = {"vocab_size": 272, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128}
# original_max_position_embeddings 16 puts the 4 frequencies of an 8-wide head into all three bands of the scaling.
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}

MODELS = {
    "llama": transformers.LlamaConfig(**TINY, **HEADS, rope_parameters=LLAMA3, tie_word_embeddings=True),
    "qwen2": transformers.Qwen2Config(**TINY, **HEADS, tie_word_embeddings=False),
    "qwen3": transformers.Qwen3Config(**TINY, **HEADS, head_dim=16, tie_word_embeddings=True),
}

PROMPTS = (
    "Explain why the sky is blue, and why it turns red in the evening, in two short sentences that a child of "
    "seven years would understand, without any hard words.",
    "def fibonacci(n):\n    if n < 2:\n        return n\n    return fibonacci(n - 1) + fibonacci(n - 2)\n\nprint(2026)",
    "The capital of France is Paris. The capital of Italy is Rome. The capital of Spain is Madrid. The capital of "
    "Portugal is Lisbon. The capital of Greece is",
)


def byte_tokenizer() -> Tokenizer:
    """A tokenizer of the 256 bytes and 16 special tokens: enough for a folder to be whole."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([f"<|special_{i}|>" for i in range(TINY["vocab_size"] - len(alphabet))])
    return tokenizer


def randomise(model: torch.nn.Module) -> None:
    """Give biases and norms, which start at 0 and 1, values that a forgotten one would betray."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0.0, 0.5)
            elif "norm" in name:
                parameter.uniform_(0.5, 1.5)
            else:
                parameter.normal_(0.0, 2.0 / parameter.shape[-1] ** 0.5)


def write_tiny(family: str, config: transformers.PretrainedConfig) -> None:
    """Write one tiny model and its logits."""
    torch.manual_seed(SEED)
    model = transformers.AutoModelForCausalLM.from_config(config).float().eval()
    randomise(model)
    model.tie_weights()
    folder = HERE / family
    model.save_pretrained(folder, safe_serialization=True)
    byte_tokenizer().save(str(folder / "tokenizer.json"))
    ids = torch.randint(0, config.vocab_size, (ROWS, LENGTH))
    with torch.no_grad():
        logits = model(ids).logits
    np.savez_compressed(folder / "expected.npz", ids=ids.int().numpy(), logits=logits.numpy())


def write_smollm2(file: Path) -> None:
    """Write some of SmolLM2's logits, read by transformers from the GGUF file."""
    model = transformers.AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    encoded = [tokenizer(prompt, add_special_tokens=False).input_ids for prompt in PROMPTS]
    length = min(len(ids) for ids in encoded)
    ids = np.array([row[:length] for row in encoded], np.int32)
    with torch.no_grad():
        logits = model.eval()(torch.from_numpy(ids).long()).logits.numpy()
    rng = np.random.default_rng(SEED)
    kept = np.array([0, length // 4, length // 2, length - 1])
    picked = logits[:, kept]
    top = np.argsort(-picked, axis=-1)[..., :TOP]
    other = rng.integers(0, logits.shape[-1], (*top.shape[:-1], RANDOM))
    columns = np.concatenate([top, other], axis=-1).astype(np.int32)
    np.savez_compressed(
        HERE / "smollm2-135m.npz",
        ids=ids,
        positions=np.broadcast_to(kept, top.shape[:-1]).astype(np.int32),
        columns=columns,
        logits=np.take_along_axis(picked, columns, axis=-1),
        prompts=json.dumps([tokenizer.decode(row) for row in ids]),
    )


def main() -> None:
    """Write every golden file."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("gguf", nargs="?", type=Path, help="SmolLM2-135M-Instruct.Q4_1.gguf")
    arguments = parser.parse_args()
    for family, config in MODELS.items():
        write_tiny(family, config)
    if arguments.gguf:
        write_smollm2(arguments.gguf)


if __name__ == "__main__":
    main()

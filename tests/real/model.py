"""Writes a tiny llama with random weights as a GGUF file: `python model.py <path> [--embedding]`.

It runs in the inference server's environment. The weights come from a fixed seed, so that the same text is answered
alike each time; what it says has no meaning, but every piece of its vocabulary is whole and valid text.
"""

import argparse
import string

import gguf
import numpy as np

SEED = 20
WIDTH, LAYERS, HEADS, HIDDEN = 64, 2, 4, 128
CONTEXT = 8192
EPSILON = 1e-5

CONTROL = ("<s>", "</s>", "<|im_start|>", "<|im_end|>")
WORDS = ("▁the", "▁gate", "▁opens", "▁naïve", "▁Wetter", "你", "好", "天气", "，", "🚀", "é", "ß", "▁", "\n")
END_OF_TURN = 1 + CONTROL.index("<|im_end|>")
NEVER = -40
#: Where it may choose between `<|im_end|>`, `functions.…` and `message:`, it calls a function, and only one.
LEANINGS = {"f": -20, "m": NEVER}
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def vocabulary() -> list[tuple[str, gguf.TokenType]]:
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    letters = [sign for sign in string.printable[:95] if sign != " "]
    return [
        ("<unk>", gguf.TokenType.UNKNOWN),
        *((token, gguf.TokenType.CONTROL) for token in CONTROL),
        *((token, gguf.TokenType.BYTE) for token in bytes_),
        *((token, gguf.TokenType.NORMAL) for token in (*letters, *WORDS)),
    ]


def tensors(tokens: list[tuple[str, gguf.TokenType]]) -> dict[str, np.ndarray]:
    """The first dimension of every state is the same and no layer writes it: the output's bias stands there."""
    random = np.random.default_rng(SEED)

    def matrix(rows: int, columns: int, *, writes_state: bool = False) -> np.ndarray:
        values = random.standard_normal((rows, columns), dtype=np.float32) / np.sqrt(columns)
        if writes_state:
            values[0] = 0
        return values.astype(np.float32)

    ones = np.ones(WIDTH, dtype=np.float32)
    embedding = random.standard_normal((len(tokens), WIDTH), dtype=np.float32)
    embedding[:, 0] = 2
    output = 2 * random.standard_normal((len(tokens), WIDTH), dtype=np.float32)
    output[:, 0] = 0
    for number, (text, kind) in enumerate(tokens):
        if len(text) > 1 or not text.isascii():
            output[number] *= 1.5  # else there would be hardly a word among the letters
        if kind != gguf.TokenType.NORMAL:  # neither half a character nor an end comes by chance
            output[number] = 0
            output[number, 0] = NEVER
        elif text in LEANINGS:
            output[number, 0] = LEANINGS[text]
    tensors = {"token_embd.weight": embedding, "output_norm.weight": ones, "output.weight": output}
    for layer in range(LAYERS):
        of_layer = {
            "attn_norm": ones,
            "attn_q": matrix(WIDTH, WIDTH),
            "attn_k": matrix(WIDTH, WIDTH),
            "attn_v": matrix(WIDTH, WIDTH),
            "attn_output": matrix(WIDTH, WIDTH, writes_state=True),
            "ffn_norm": ones,
            "ffn_gate": matrix(HIDDEN, WIDTH),
            "ffn_up": matrix(HIDDEN, WIDTH),
            "ffn_down": matrix(WIDTH, HIDDEN, writes_state=True),
        }
        tensors |= {f"blk.{layer}.{name}.weight": values for name, values in of_layer.items()}
    return tensors


def write(path: str, *, embedding: bool) -> None:
    tokens = vocabulary()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_layer_norm_rms_eps(EPSILON)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_token_list([text for text, _ in tokens])
    writer.add_token_scores([-float(number) for number in range(len(tokens))])
    writer.add_token_types([kind for _, kind in tokens])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(END_OF_TURN)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)
    if embedding:
        writer.add_pooling_type(gguf.PoolingType.MEAN)
    else:
        writer.add_chat_template(CHAT_TEMPLATE)
    for name, values in tensors(tokens).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path")
    parser.add_argument("--embedding", action="store_true")
    options = parser.parse_args()
    write(options.path, embedding=options.embedding)

"""The README.md beside a Core ML package: what is in it, and how a program in Swift runs it."""

from __future__ import annotations

from typing import Any

from afm_mlx.export.targets import Source

_SWIFT = """\
import CoreML
import Tokenizers  // package huggingface/swift-transformers

let model = URL(fileURLWithPath: "PACKAGE")
let compiled = try await MLModel.compileModel(at: model)  // once; keep it
func open(_ function: String) async throws -> MLModel {
    let settings = MLModelConfiguration()
    settings.computeUnits = .cpuAndNeuralEngine
    settings.functionName = function
    return try await MLModel.load(contentsOf: compiled, configuration: settings)
}
let prefill = try await open("PREFILL"), decode = try await open("DECODE")
let state = prefill.makeState()  // keys and values; both functions share it
let context = CONTEXT
var tokens: [Int] = [], read = 0

/// Reads what is new in `tokens`; the likeliest token that comes next.
func next() async throws -> Int {
    var best = 0
    while read < tokens.count {
        let left = tokens.count - read
        let width = left > DECODE_TOKENS ? PREFILL_TOKENS : DECODE_TOKENS
        let start = min(read, context - width)
        let chunk = Array(tokens[start..<min(start + width, tokens.count)])
        let ids = try MLMultiArray(shape: [1, NSNumber(value: width)], dataType: .int32)
        for slot in 0..<width { ids[slot] = NSNumber(value: slot < chunk.count ? chunk[slot] : 0) }
        let position = try MLMultiArray(shape: [1], dataType: .int32)
        position[0] = NSNumber(value: start)
        let count = try MLMultiArray(shape: [1], dataType: .int32)
        count[0] = NSNumber(value: chunk.count)
        let inputs = try MLDictionaryFeatureProvider(
            dictionary: ["input_ids": ids, "position": position, "token_count": count])
        let function = width == DECODE_TOKENS ? decode : prefill
        let out = try await function.prediction(from: inputs, using: state)
        read = start + chunk.count
        if read < tokens.count { continue }
        let logits = out.featureValue(for: "logits")!.multiArrayValue!
        logits.withUnsafeBufferPointer(ofType: Float16.self) { values in
            best = values.indices.max { values[$0] < values[$1] }!
        }
    }
    return best
}

let tokenizer = try await AutoTokenizer.from(modelFolder: model.deletingLastPathComponent())
tokens = PROMPT
while tokens.count < context {
    let token = try await next()
    if token == tokenizer.eosTokenId { break }
    tokens.append(token)
    print(tokenizer.decode(tokens: [token]), terminator: "")
}
"""
_ABOUT = {
    "input_ids": "token ids; those after the ones that count are ignored",
    "position": "place of the first token in the text, from 0",
    "token_count": "how many of the ids count, from 1",
    "logits": "of the token that comes after the last that counts",
    "key_cache": "keys of all layers, shared by all functions",
    "value_cache": "values of all layers, shared by all functions",
}
"""What each input, output and state of a function is."""


def about(name: str) -> str:
    """One line on an input, output or state."""
    return _ABOUT[name]


def readme(source: Source, facts: dict[str, Any], *, chats: bool) -> str:
    """Text of the file, in Markdown.

    Args:
        source: the model.
        facts: what coreml.json says.
        chats: whether prompts go through the chat template.
    """
    package, context = facts["package"], facts["context_tokens"]
    shape = source.shape
    prompt = (
        'try tokenizer.applyChatTemplate(messages: [["role": "user", "content": "Hello"]])'
        if chats
        else 'tokenizer.encode(text: "Hello")'
    )
    functions = [
        f"| `{name}` | {each['tokens']} | {each['adapter'] or 'none'} |"
        for name, each in facts["functions"].items()
    ]
    last = list(facts["functions"])[-2:]  # of the last adapter, which is what a product uses
    swift = _SWIFT
    for word, value in {
        "DECODE_TOKENS": facts["decode_tokens"],
        "PREFILL_TOKENS": facts["prefill_tokens"],
        "PACKAGE": package,
        "PREFILL": last[1],
        "DECODE": last[0],
        "CONTEXT": context,
        "PROMPT": prompt,
    }.items():
        swift = swift.replace(word, str(value))
    cache = (shape.num_layers, shape.num_kv_heads, context, shape.head_dim)
    lines = [
        f"# {source.name} for Core ML",
        "",
        f"`{package}` is an ML Program for iOS 18 and macOS 15 or later. Written with afm-mlx.",
        "",
        "**Those who made the exporter did not run it on a Mac or an iPhone.** What was checked,",
        "and with what, is in `export.json`. Whether the Neural Engine takes all of it, Xcode's",
        "performance report says: open the package in Xcode, and choose Performance.",
        "",
        "## Functions",
        "",
        "| function | tokens of a call | adapter |",
        "|---|---|---|",
        *functions,
        "",
        "All have the same inputs and states, and share the weights:",
        "",
        f"- `input_ids` [1, tokens] int32: {about('input_ids')}",
        f"- `position` [1] int32: {about('position')}",
        f"- `token_count` [1] int32: {about('token_count')}",
        f"- `logits` [1, 1, {shape.vocab_size}] float16: {about('logits')}",
        f"- `key_cache`, `value_cache` {list(cache)} float16, states",
        "",
        f"A call must end within the context: position + tokens <= {context:,}. Near its end,",
        "start earlier and read some tokens again: that changes nothing. After a change of",
        "adapter, read from the beginning.",
        "",
        "## Swift",
        "",
        "Not compiled and not run by us. Greedy, without batching or checks:",
        "",
        "```swift",
        swift.rstrip(),
        "```",
        "",
        "The tokenizer's files beside the package are what huggingface/swift-transformers reads.",
        "",
        "## License",
        "",
        "**No license is stated yet.** The owner of the model fills this in, here and in the",
        "package's metadata.",
        "",
    ]
    return "\n".join(lines)

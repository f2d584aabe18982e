"""The README.md beside a Core ML package: what is in it, and how a program in Swift runs it."""

from __future__ import annotations

from typing import Any

from afm_mlx.export.targets import Source

_SWIFT = """\
import CoreML
import Tokenizers  // package huggingface/swift-transformers

let folder = URL(fileURLWithPath: ".")  // this one
let names = [PACKAGES]
let context = CONTEXT
var parts: [(prefill: MLModel, decode: MLModel, state: MLState)] = []
HEAD_DECLARED
for name in names {
    // Compile once and keep the result: it takes long.
    let compiled = try await MLModel.compileModel(at: folder.appending(path: name))
    func open(_ function: String) async throws -> MLModel {
        let settings = MLModelConfiguration()
        settings.computeUnits = .cpuAndNeuralEngine
        settings.functionName = function
        return try await MLModel.load(contentsOf: compiled, configuration: settings)
    }
    let prefill = try await open("PREFILL"), decode = try await open("DECODE")
    parts.append((prefill, decode, prefill.makeState()))  // both share the keys and values
HEAD_OPENED
}

func array(_ values: [Int], shape: [NSNumber]) throws -> MLMultiArray {
    let found = try MLMultiArray(shape: shape, dataType: .int32)
    for (place, value) in values.enumerated() { found[place] = NSNumber(value: value) }
    return found
}
func run(_ model: MLModel, _ inputs: [String: Any], _ state: MLState?) async throws
    -> MLFeatureProvider
{
    let given = try MLDictionaryFeatureProvider(dictionary: inputs)
    guard let state else { return try await model.prediction(from: given) }
    return try await model.prediction(from: given, using: state)
}

var tokens: [Int] = [], read = 0

/// Reads what is new in `tokens`; the likeliest token that comes next.
func next() async throws -> Int {
    var best = 0
    while read < tokens.count {
        let width = tokens.count - read > DECODE_TOKENS ? PREFILL_TOKENS : DECODE_TOKENS
        let start = min(read, context - width)
        let chunk = Array(tokens[start..<min(start + width, tokens.count)])
        read = start + chunk.count
        let padded = chunk + Array(repeating: 0, count: width - chunk.count)
        let ids = try array(padded, shape: [1, NSNumber(value: width)])
        var inputs: [String: Any] = ["input_ids": ids]
        var out: MLFeatureProvider!
        for (number, part) in parts.enumerated() {
            inputs["position"] = try array([start], shape: [1])
            if number == parts.count - 1 {
                inputs["token_count"] = try array([chunk.count], shape: [1])
            }
            let model = width == DECODE_TOKENS ? part.decode : part.prefill
            out = try await run(model, inputs, part.state)
            inputs = out.featureValue(for: "hidden_out").map { ["hidden": $0] } ?? [:]
        }
        if read < tokens.count { continue }
HEAD_CALLED
        let logits = out.featureValue(for: "logits")!.multiArrayValue!
        logits.withUnsafeBufferPointer(ofType: Float16.self) { values in
            best = values.indices.max { values[$0] < values[$1] }!
        }
    }
    return best
}

let tokenizer = try await AutoTokenizer.from(modelFolder: folder)
tokens = PROMPT
while tokens.count < context {
    let token = try await next()
    if token == tokenizer.eosTokenId { break }
    tokens.append(token)
    print(tokenizer.decode(tokens: [token]), terminator: "")
}
"""
# What a model of several packages needs beside: the function that makes logits.
_HEAD = {
    "HEAD_DECLARED": "var head: MLModel!",
    "HEAD_OPENED": '    if head == nil { head = try await open("head") }  // in the first package',
    "HEAD_CALLED": """\
        out = try await run(
            head, ["last_hidden": out.featureValue(for: "last_hidden")!], nil)""",
}
_ABOUT = {
    "input_ids": "token ids; those after the ones that count are ignored",
    "position": "place of the first token in the text, from 0",
    "token_count": "how many of the ids count, from 1",
    "hidden": "states from the package before",
    "hidden_out": "states for the package that comes next",
    "last_hidden": "state of the last token that counts",
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
    names, context = facts["packages"], facts["context_tokens"]
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
    for word, text in _HEAD.items():
        swift = swift.replace(f"{word}\n", f"{text}\n" if len(names) > 1 else "")
    for word, value in {
        "DECODE_TOKENS": facts["decode_tokens"],
        "PREFILL_TOKENS": facts["prefill_tokens"],
        "PACKAGES": ", ".join(f'"{name}"' for name in names),
        "PREFILL": last[1],
        "DECODE": last[0],
        "CONTEXT": context,
        "PROMPT": prompt,
    }.items():
        swift = swift.replace(word, str(value))
    listed = ", ".join(f"`{name}`" for name in names)
    sizes = f"{shape.num_kv_heads}, {context}, {shape.head_dim}"
    several = [
        "The packages are computed one after the other. The first takes `input_ids`, the others",
        "`hidden` [1, width, 1, tokens] float16, which is `hidden_out` of the one before; only the",
        "last takes `token_count`. It gives `last_hidden`, of which the function `head` of the",
        "first package makes `logits`. Each package has its own states.",
        "",
    ]
    lines = [
        f"# {source.name} for Core ML",
        "",
        f"ML Program for iOS 18 and macOS 15 or later: {listed}. Written with afm-mlx.",
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
        f"- `key_cache`, `value_cache` [layers, {sizes}] float16, states",
        "",
        *(several if len(names) > 1 else []),
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
        "The tokenizer's files beside it are what huggingface/swift-transformers reads.",
        "",
        "## License",
        "",
        "**No license is stated yet.** The owner of the model fills this in, here and in the",
        "package's metadata.",
        "",
    ]
    return "\n".join(lines)

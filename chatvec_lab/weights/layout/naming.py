"""What a tensor's name alone says: its component, the stack of layers it is in, its kind of module, its projection.

A name is read as its pieces between dots. `Layout` asks this file about every tensor, with the names of classes
beside the pieces where transformers knows the model, without them where nothing else is known.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

KINDS = (
    "embedding", "attention", "mlp", "router", "norm", "ssm", "convolution", "projector", "head", "buffer", "other",
)  # fmt: skip
COMPONENTS = ("text", "encoder", "vision", "audio", "projector", "draft", "other")


@dataclass(frozen=True)
class Part:
    """What a tensor is.

    `component`: one of `COMPONENTS` ("draft": layers that guess tokens ahead; "encoder": the text encoder of an
    encoder-decoder); `layer`: its number within the component, None outside the layers; `module`: one of `KINDS`;
    `projection`: "q", "k", "v", "o", "gate", "up", "down" …, or None; `axis`: "vocabulary" where the first axis has
    a row a token of the model's own tokenizer, "candidate" where it only has as many rows and nothing else is known
    of it, else None.
    """

    component: str
    layer: int | None
    module: str
    projection: str | None = None
    axis: str | None = None


_LISTS = re.compile(r"layers?|h|blocks?|decoder_layers|encoder_layers|resblocks|\w+_layers|layer_\w+")
_COMPONENT = (
    ("draft", re.compile(r"mtp|draft|eagle|nextn|medusa|speculator|hydra")),
    ("projector", re.compile(
        r"projector|connector|merger|resampler|abstractor|qformer|q_former|query_tokens|perceiver|adapter|aligner"
        r"|multi_?modal|^mm_|language_projection|^embed_(?:vision|audio)|image_newline|view_sep|modality_projection"
        r"|visual_proj|vision_proj|vision_embed_tokens|image_proj|audio_proj|text_projection"
    )),
    ("text", re.compile(r"language|^text|text_config|llm|^lm_heads?$|^thinker")),
    ("vision", re.compile(
        r"vision|visual|video|vit$|^vit|image|^img|siglip|clip|pixel"
        r"|vqmodel|^sam|_sam|eva_|pixtral|^vpm|deepencoder"
    )),
    ("audio", re.compile(
        r"audio|speech|whisper|conformer|sound|codec|2wav|vocoder"
        r"|talker|code_predictor|depth_decoder|^apm$|^tts"
    )),
    ("other", re.compile(r"protein|molecule|^dit$|action_expert|time_series")),
)  # fmt: skip
# the last piece that fits decides: self_attn.q_norm is a norm, post_attention_layernorm is not attention
_KINDS = (
    ("norm", re.compile(r"layer_?norm|(?:^|_)norm(?:$|_|\d)|^norm|^ln(?:$|_|\d)|_ln$|rmsnorm|(?:batch|group)_?norm|^bn\d?$")),
    ("head", re.compile(r"^(?:lm_heads?|embed_out|output_layer|pred_layer|lm_loss|ff_out|unembed|cls|\w*predictions)$")),
    ("projector", re.compile(
        r"^embedding_projection$|^(?:multi_modal|mm|multimodal)_?projector$|^connector$|^merger$|^projector$|^aligner$"
    )),
    ("embedding", re.compile(
        r"^(?:embed_tokens\w*|word_embeddings|wte|wpe|embed_in|tok_embeddings|embed_positions|embeddings?|embedder|shared"
        r"|\w*_embeddings?|\w*_embed|embed|word_embedding)$"
    )),
    ("router", re.compile(r"^(?:router|gate|shared_expert_gate|wg|gating)$|router$")),
    ("ssm", re.compile(r"mamba|ssm|^rg_lru$|recurrent|mlstm|slstm|^time_mix$|gated_delta|^kda$|lightning")),
    ("mlp", re.compile(
        r"mlp|feed_?forward|ffn|^ff$|ff_layer|experts?$|^moe|_moe$|^fc(?:\d|_)?\w*$|^wi(?:_\d)?$|densereludense"
        r"|dense_h_to_4h|dense_4h_to_h|^intermediate$|^lin[12]$|channel_mix|^ffns$"
    )),
    ("attention", re.compile(r"attn|attention|^(?:self_|cross_)?att$|^att_proj$|attentions|^mha$")),
)  # fmt: skip
_INSIDE = (
    "ssm",
    "mlp",
    "attention",
    "projector",
)  # kinds that a convolution or a table of their own belongs to
_MIXER = re.compile(r"^(?:mixer|temporal_block)$")
_QKVO = re.compile(
    r"^(?:[qkvo]_proj|qkv_proj|q|k|v|o|query|key|value)$|^(?:q|kv)_[ab]_proj|^[qkvo]_(?:lin|conv|norm)"
)
_CLASSES = (
    ("norm", re.compile(r"Norm")),
    ("router", re.compile(r"Router|TopK|(?:^|[a-z\d])Gate$")),
    ("ssm", re.compile(r"Mamba|SSM|Rglru|RgLru|RecurrentBlock|mLSTM|sLSTM|Rwkv\w*Attention|DeltaNet|ShortConv")),
    ("attention", re.compile(r"Attention|Attn")),
    ("mlp", re.compile(r"MLP|Mlp|FeedForward|FFN|Experts|Moe|MoE|Rwkv\w*FeedForward")),
    ("projector", re.compile(r"Projector|Connector|Merger|Resampler|Abstractor|Multimodal\w*Embedder|Pooler$")),
    ("embedding", re.compile(r"^(?!Rotary)\w*Embeddings?$")),
    ("convolution", re.compile(r"^Conv\dd$|Conv|Conformer")),
)  # fmt: skip
_CONVOLUTION = re.compile(r"^conv|_conv(?:\d|_|$)|^sconv|^patch_embed")
_PROJECTIONS = (
    ("qkv", re.compile(r"^(?:qkv|qkv_proj|query_key_value|c_attn|wqkv|att_proj|in_proj_qkv\w*|in_proj|in_proj_weight)$")),
    ("kv", re.compile(r"^(?:kv|kv_proj|key_value|c_kv|to_kv)$")),
    ("q", re.compile(r"^(?:to_)?(?:q|query|wq|q_proj|q_lin|query_proj|project_q)$")),
    ("k", re.compile(r"^(?:to_)?(?:k|key|wk|k_proj|k_lin|key_proj|project_k)$")),
    ("v", re.compile(r"^(?:to_)?(?:v|value|wv|v_proj|v_lin|value_proj|project_v)$")),
    ("o", re.compile(
        r"^(?:o|o_proj|out_proj|wo|c_proj|dense|out_lin|to_out|proj|projection|attn_out|attention_out|output|out|r_o)$"
    )),
)  # fmt: skip
_MLP_PROJECTIONS = (
    ("gate_up", re.compile(r"^(?:gate_up_proj|gate_up|gate_and_up_proj\w*|w13|input_linear|gate_up_linear)$")),
    ("gate", re.compile(r"^(?:gate_proj|w1|wi_0|gate|linear_gate|w_gate)$")),
    ("up", re.compile(
        r"^(?:up_proj|w3|wi_1|fc1|fc_in|c_fc|dense_h_to_4h|wi|lin1|intermediate|w_up|linear_1|linear_fc1|v1|ff_proj|proj_up|up)$"
    )),
    ("down", re.compile(
        r"^(?:down_proj|w2|wo|fc2|fc_out|c_proj|dense_4h_to_h|lin2|output|output_linear|w_down|linear_2|linear_fc2|ff_out|proj_down|down)$"
    )),
)  # fmt: skip
_MIX_PROJECTIONS = (
    ("in", re.compile(r"^(?:in_proj\w*|linear_[xy])$")),
    ("out", re.compile(r"^(?:out_proj|linear_out)$")),
)
_BUFFER = re.compile(
    r"rotary\w*\.(?:inv_freq|cos_cached|sin_cached)$|inv_freq$|freqs_cis$|(?:sin|cos)_cached$|\.masked_bias$|position_ids$|token_type_ids$"
    r"|\.(?:attn|attention)\.bias$|running_(?:mean|var)$|num_batches_tracked$|\.(?:embed_)?positions?_embedding_sin\w*$"
)
_WRAPPER = re.compile(r"(?:(?:module|_orig_mod|_fsdp_wrapped_module|_forward_module|base_model\.model)\.)+")
_TABLE = re.compile(
    r"(?:^|\.)(?:embed_tokens(?:_per_layer)?|word_embeddings|wte|embed_in|tok_embeddings|lm_head|embed_out)\.(?:weight|bias)$"
    r"|^output\.weight$|(?:^|\.)backbone\.embeddings?\.weight$|^(?:rwkv\.embeddings|head)\.weight$"
    r"|^transformer\.(?:output_layer|ff_out|embedding\.word_embeddings)\.weight$|shared_head\.head\.weight$"
    r"|^shared\.weight$|^encoder\.embed_tokens\.weight$|^model\.(?:embeddings|shared)\.weight$"
)


def pieces(name: str) -> list[str]:
    """The pieces of a name, without a leaf that only says weight or bias."""
    found = name.split(".")
    return found[:-1] if len(found) > 1 and found[-1] in ("weight", "bias", "gamma", "beta") else found


def list_place(parts: Sequence[str]) -> int | None:
    """The position of the layer's number among the pieces, or None outside the layers."""
    for i in range(1, len(parts)):
        if parts[i].isdigit() and _LISTS.fullmatch(parts[i - 1].lower()):
            return i
    return None


def component(before: Iterable[str]) -> str:
    """The component that the pieces before the layer's number say."""
    found = "text"
    for piece in before:
        for kind, pattern in _COMPONENT:
            if pattern.search(piece.lower()):
                if found != "projector" and not (kind == "text" and found == "draft"):
                    found = kind
                break
    return found


def kind(parts: Sequence[str], classes: Sequence[str] = (), within: str = "text") -> str:
    """The kind of module, one of `KINDS`; `classes` are the names of the modules' classes, piece by piece."""
    readings = []
    for i, piece in enumerate(parts):
        owner = classes[i] if i < len(classes) else ""
        by_name = next((k for k, p in _KINDS if p.search(piece.lower())), None)
        if by_name is None and _CONVOLUTION.search(piece.lower()):
            by_name = "convolution"
        by_class = next((k for k, p in _CLASSES if owner != "Conv1D" and p.search(owner)), None)
        if _MIXER.match(piece.lower()) or (piece == "conv" and by_class == "ssm"):
            by_name = by_class or _mixer(parts[i + 1 :])
        readings.append(by_name or by_class)
    last = None
    for i, reading in enumerate(readings):
        if reading is None:
            if last != "attention" and parts[i].lower() == "output" and i and parts[i - 1].isdigit():
                last = "mlp"  # BERT: layer.N.output.dense
            continue
        if reading in ("convolution", "embedding") and last in _INSIDE and within != "projector":
            continue  # the convolution of a mixer, the relative positions of an attention
        is_gate = reading == "router" or re.match(r"^(?:fc|gate)", parts[i].lower())
        if (
            is_gate
            and reading in ("router", "mlp")
            and last in ("attention", "ssm")
            and parts[i].lower() != "router"
        ):
            continue  # the gate of an attention
        last = reading
    if within == "projector" and (last is None or (last == "mlp" and list_place(parts) is None)):
        return "projector"
    return last or "other"


def _mixer(rest: Sequence[str]) -> str | None:
    """What a layer's only mixer is, by what is in it."""
    if any(_QKVO.search(piece.lower()) for piece in rest):
        return "attention"
    if any(re.search(r"^(?:up|down)_proj$", piece) for piece in rest):
        return "mlp"
    return "ssm" if rest else None


def projection(parts: Sequence[str], module: str) -> str | None:
    """The projection's short name within its module, or None."""
    tables = {
        "attention": (*_PROJECTIONS,),
        "mlp": _MLP_PROJECTIONS,
        "ssm": (*_MIX_PROJECTIONS, *_PROJECTIONS[2:5]),
        "convolution": _MIX_PROJECTIONS,
    }
    for piece in reversed(parts):
        for short, pattern in tables.get(module, ()):
            if pattern.search(piece.lower()):
                if short == "o" and piece == "dense" and "intermediate" in parts:
                    return "up"
                return short
        low = re.match(r"^((?:q|kv)_[ab])_proj", piece)
        if module == "attention" and low:
            return low[1]
    return None


def is_buffer(name: str) -> bool:
    """True for stored constants (rotary frequencies, masks, running statistics) that no training moves."""
    return bool(_BUFFER.search(name))


def is_table(name: str) -> bool:
    """True for names under which checkpoints keep a row a token."""
    return bool(_TABLE.search(name))


def wrapper(name: str) -> str:
    """The prefix that DataParallel, torch.compile, FSDP, DeepSpeed or PEFT put before a model's own names; or ""."""
    found = _WRAPPER.match(name)
    return found[0] if found else ""


def parts_of(
    names: Iterable[str],
    classes: Mapping[str, Sequence[str]] | None = None,
    hints: Mapping[str, Sequence[str]] | None = None,
    places: Mapping[str, int | None] | None = None,
    depth: int | None = None,
    buffers: Iterable[str] | None = None,
) -> dict[str, Part]:
    """What each of a model's tensors is.

    `classes`: the class of the module at each piece; `hints`: the pieces with what sub-configs say of them; `places`:
    where the layer's number stands among the pieces; `depth`: how many layers the text has, beyond which they draft;
    `buffers`: the stored constants, where they are known.
    """
    found, stacks = {}, {}
    for name in names:
        split = pieces(name)
        place = places[name] if places is not None and name in places else list_place(split)
        said = list((hints or {}).get(name, split))
        where = component(said[:place])  # without a layer's number: all of them
        layer = int(split[place]) if place else None
        module = kind(split, (classes or {}).get(name, ()), where)
        if (is_buffer(name) and buffers is None) or name in (buffers or ()):
            module = "buffer"
        elif name == "output.weight":
            module = "head"
        found[name] = Part(where, layer, module, projection(split, module))
        if place and where == "text":
            stacks.setdefault(".".join(split[: place - 1]), []).append(name)
    others = _others(stacks, found)
    for name, part in found.items() if others else ():
        stack = max((s for s in stacks if name.startswith(f"{s}.") or not s), key=len, default=None)
        # with the stack goes what stands beside it, but for tables
        if part.component == "text" and stack in others and part.module not in ("embedding", "head"):
            found[name] = replace(part, component=others[stack])
    if depth:
        for name, part in found.items():
            if part.component == "text" and part.layer is not None and part.layer >= depth:
                found[name] = replace(part, component="draft")
    return found


def _others(stacks: Mapping[str, list[str]], parts: Mapping[str, Part]) -> dict[str, str]:
    """Stacks of layers in the text beside the main one (an encoder, a patcher), which is the longest, or the last."""
    if len(stacks) < 2:
        return {}
    length = lambda stack: max(parts[name].layer for name in stacks[stack])  # noqa: E731
    rank = lambda s: ("decoder" in s and "local" not in s, length(s), "language" in s, list(stacks).index(s))  # noqa: E731
    order = sorted(stacks, key=rank)
    return {s: "encoder" if "encoder" in s and "local" not in s else "other" for s in order[:-1]}

"""Settings of the small models' configs."""

from __future__ import annotations

SIZE = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "num_labels": 3,
}
PICTURE = {**SIZE, "image_size": 24, "patch_size": 6}
DINO = {k: v for k, v in PICTURE.items() if k != "intermediate_size"} | {"mlp_ratio": 2}
WORDS = {**SIZE, "vocab_size": 60, "max_position_embeddings": 40, "pad_token_id": 1}
DISTIL = {
    "dim": 32,
    "n_layers": 4,
    "n_heads": 2,
    "hidden_dim": 64,
    "num_labels": 3,
    "vocab_size": 60,
    "max_position_embeddings": 40,
    "pad_token_id": 1,
}
CLIP_TEXT = {**SIZE, "vocab_size": 60, "max_position_embeddings": 40, "eos_token_id": 2, "bos_token_id": 0}
CLIP_TEXT |= {"pad_token_id": 1, "projection_dim": 16}
DEBERTA = {**WORDS, "relative_attention": True, "pos_att_type": "p2c|c2p", "type_vocab_size": 0}
DEBERTA |= {"position_biased_input": False, "norm_rel_ebd": "layer_norm", "position_buckets": 4, "share_att_key": True}
MODERN = {**WORDS, "local_attention": 4, "global_attn_every_n_layers": 2}
MODERN |= {"cls_token_id": 0, "sep_token_id": 2, "bos_token_id": 0, "eos_token_id": 2}
T5 = {"vocab_size": 60, "d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 4, "num_decoder_layers": 2}
T5 |= {"num_heads": 2, "relative_attention_num_buckets": 8, "relative_attention_max_distance": 8}
T5 |= {"pad_token_id": 1, "decoder_start_token_id": 1, "eos_token_id": 2}
SEQ2SEQ = {"d_model": 32, "encoder_layers": 4, "decoder_layers": 2, "encoder_attention_heads": 2}
SEQ2SEQ |= {"decoder_attention_heads": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
BART = {**SEQ2SEQ, "vocab_size": 60, "max_position_embeddings": 40, "pad_token_id": 1, "bos_token_id": 0}
BART |= {"eos_token_id": 2, "decoder_start_token_id": 2, "forced_eos_token_id": 2}
SOUND = {**SIZE, "conv_dim": (16,), "conv_kernel": (4,), "conv_stride": (4,), "num_feat_extract_layers": 1}
SOUND |= {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "feat_extract_norm": "layer"}
SOUND |= {"layerdrop": 0.0, "apply_spec_augment": False, "classifier_proj_size": 16, "vocab_size": 12}
STABLE = {**SOUND, "do_stable_layer_norm": True}
WAVLM = {"num_buckets": 8, "max_bucket_distance": 10}
WHISPER = {**SEQ2SEQ, "num_mel_bins": 8, "max_source_positions": 14, "max_target_positions": 20, "vocab_size": 60}
WHISPER |= {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 3, "num_labels": 3}
WHISPER |= {"classifier_proj_size": 16, "suppress_tokens": None, "begin_suppress_tokens": None}
TIMM = {"img_size": 24, "patch_size": 6, "embed_dim": 32, "depth": 4, "num_heads": 2, "mlp_ratio": 2}
CLIP_OF_FRAMES = {**PICTURE, "num_frames": 4, "tubelet_size": 2}

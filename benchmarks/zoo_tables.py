"""Small members of the zoos that are built from a configuration: transformers, MONAI, segmentation-models-pytorch."""

from __future__ import annotations

from typing import Any, NamedTuple

CLASSES = 10

# A small vision transformer, in the words that most configurations of transformers share.
VIT: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 64,
    "patch_size": 16,
    "hidden_dropout_prob": 0.1,
}
SWIN: dict[str, Any] = {
    "image_size": 64,
    "embed_dim": 16,
    "depths": [2, 2, 2, 1],
    "num_heads": [1, 2, 4, 8],
    "window_size": 2,
    "hidden_dropout_prob": 0.1,
}
CONVNEXT: dict[str, Any] = {"hidden_sizes": [8, 16, 32, 64], "depths": [1, 1, 3, 1]}
RESNET: dict[str, Any] = {"embedding_size": 8, "hidden_sizes": [8, 16, 32, 64], "depths": [1, 1, 2, 1]}
STAGES = {"out_features": ["stage1", "stage2", "stage3", "stage4"]}
DECODER: dict[str, Any] = {"encoder_layers": 2, "decoder_layers": 3, "d_model": 32, "num_queries": 8}
HEADS: dict[str, Any] = {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
FEED: dict[str, Any] = {"encoder_ffn_dim": 64, "decoder_ffn_dim": 64}


class Part(NamedTuple):
    """A configuration inside a configuration, built when the model is: a backbone."""

    config: str
    options: dict[str, Any]


class Made(NamedTuple):
    """A model of transformers: its class, its configuration's class and options, the size of its images, its `main`."""

    model: str
    config: str
    options: dict[str, Any]
    size: int = 64
    main: str | None = None


BACKBONE = {"use_timm_backbone": False, "backbone_config": Part("ResNetConfig", {**RESNET, "out_features": ["stage4"]})}
RESNET_STAGES = Part("ResNetConfig", {**RESNET, **STAGES})

TRANSFORMERS: dict[str, Made] = {
    "resnet": Made("ResNetForImageClassification", "ResNetConfig", RESNET),
    "regnet": Made("RegNetForImageClassification", "RegNetConfig", {**RESNET, "groups_width": 4}),
    "bit": Made("BitForImageClassification", "BitConfig", {**RESNET, "num_groups": 4}),
    "convnext": Made("ConvNextForImageClassification", "ConvNextConfig", CONVNEXT),
    "convnextv2": Made("ConvNextV2ForImageClassification", "ConvNextV2Config", CONVNEXT),
    "efficientnet": Made(
        "EfficientNetForImageClassification", "EfficientNetConfig", {"width_coefficient": 0.25, "hidden_dim": 320}
    ),
    "mobilenet_v1": Made("MobileNetV1ForImageClassification", "MobileNetV1Config", {"depth_multiplier": 0.25}),
    "mobilenet_v2": Made("MobileNetV2ForImageClassification", "MobileNetV2Config", {"depth_multiplier": 0.35}),
    "mobilevit": Made(
        "MobileViTForImageClassification",
        "MobileViTConfig",
        {"hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [4, 8, 16, 24, 32, 40, 160], "image_size": 64},
    ),
    "mobilevitv2": Made("MobileViTV2ForImageClassification", "MobileViTV2Config", {"width_multiplier": 0.5}),
    "poolformer": Made(
        "PoolFormerForImageClassification",
        "PoolFormerConfig",
        {"depths": [1, 1, 3, 1], "hidden_sizes": [8, 16, 32, 64]},
    ),
    "focalnet": Made(
        "FocalNetForImageClassification",
        "FocalNetConfig",
        {"embed_dim": 16, "depths": [1, 1, 3, 1], "image_size": 64},
    ),
    "cvt": Made(
        "CvtForImageClassification", "CvtConfig", {"embed_dim": [8, 16, 32], "depth": [1, 2, 3], "num_heads": [1, 2, 4]}
    ),
    "levit": Made(
        "LevitForImageClassification",
        "LevitConfig",
        {"image_size": 64, "hidden_sizes": [32, 48, 64], "depths": [2, 2, 2], "key_dim": [8, 8, 8]},
    ),
    "pvt": Made(
        "PvtForImageClassification",
        "PvtConfig",
        {"image_size": 64, "hidden_sizes": [8, 16, 32, 64], "num_attention_heads": [1, 2, 4, 8]},
    ),
    "pvt_v2": Made(
        "PvtV2ForImageClassification",
        "PvtV2Config",
        {"image_size": 64, "hidden_sizes": [8, 16, 32, 64], "num_attention_heads": [1, 2, 4, 8]},
    ),
    "swiftformer": Made(
        "SwiftFormerForImageClassification",
        "SwiftFormerConfig",
        {"image_size": 64, "embed_dims": [8, 16, 32, 64], "depths": [1, 1, 2, 1]},
    ),
    "textnet": Made(
        "TextNetForImageClassification", "TextNetConfig", {"hidden_sizes": [8, 8, 16, 32, 64], "stem_out_channels": 8}
    ),
    "hgnet_v2": Made("HGNetV2ForImageClassification", "HGNetV2Config", {}),
    "vit": Made("ViTForImageClassification", "ViTConfig", VIT),
    "vit_mae": Made(
        "ViTMAEForPreTraining",
        "ViTMAEConfig",
        {
            **VIT,
            "decoder_hidden_size": 32,
            "decoder_num_layers": 2,
            "decoder_num_attention_heads": 4,
            "decoder_intermediate_size": 64,
        },
    ),
    "vit_msn": Made("ViTMSNForImageClassification", "ViTMSNConfig", VIT),
    "deit": Made("DeiTForImageClassification", "DeiTConfig", VIT),
    "ijepa": Made("IJepaForImageClassification", "IJepaConfig", VIT),
    "beit": Made("BeitForImageClassification", "BeitConfig", VIT),
    "data2vec_vision": Made("Data2VecVisionForImageClassification", "Data2VecVisionConfig", VIT),
    "dinov2": Made("Dinov2ForImageClassification", "Dinov2Config", {**VIT, "mlp_ratio": 2}),
    "dinov2_with_registers": Made(
        "Dinov2WithRegistersForImageClassification", "Dinov2WithRegistersConfig", {**VIT, "mlp_ratio": 2}
    ),
    "dinov3_vit": Made("DINOv3ViTModel", "DINOv3ViTConfig", VIT),
    "clip_vision": Made("CLIPVisionModel", "CLIPVisionConfig", VIT),
    "siglip_vision": Made("SiglipVisionModel", "SiglipVisionConfig", VIT),
    "swin": Made("SwinForImageClassification", "SwinConfig", SWIN),
    "swinv2": Made("Swinv2ForImageClassification", "Swinv2Config", SWIN),
    "donut_swin": Made("DonutSwinForImageClassification", "DonutSwinConfig", SWIN),
    "hiera": Made(
        "HieraForImageClassification",
        "HieraConfig",
        {"image_size": [64, 64], "embed_dim": 16, "depths": [1, 1, 3, 1], "num_heads": [1, 2, 4, 8]},
    ),
    "segformer": Made(
        "SegformerForSemanticSegmentation",
        "SegformerConfig",
        {"hidden_sizes": [8, 16, 32, 64], "decoder_hidden_size": 32},
    ),
    "segformer_classification": Made(
        "SegformerForImageClassification", "SegformerConfig", {"hidden_sizes": [8, 16, 32, 64]}
    ),
    "upernet": Made(
        "UperNetForSemanticSegmentation",
        "UperNetConfig",
        {"backbone_config": RESNET_STAGES, "hidden_size": 32, "auxiliary_in_channels": 32, "auxiliary_channels": 16},
    ),
    "dpt": Made(
        "DPTForSemanticSegmentation",
        "DPTConfig",
        {**VIT, "backbone_out_indices": [1, 2, 3, 5], "neck_hidden_sizes": [8, 16, 32, 32], "fusion_hidden_size": 16},
    ),
    "dpt_depth": Made(
        "DPTForDepthEstimation",
        "DPTConfig",
        {**VIT, "backbone_out_indices": [1, 2, 3, 5], "neck_hidden_sizes": [8, 16, 32, 32], "fusion_hidden_size": 16},
    ),
    "glpn": Made(
        "GLPNForDepthEstimation",
        "GLPNConfig",
        {"hidden_sizes": [8, 16, 32, 64], "num_attention_heads": [1, 2, 4, 8], "decoder_hidden_size": 16},
    ),
    "mobilevit_segmentation": Made(
        "MobileViTForSemanticSegmentation",
        "MobileViTConfig",
        {"hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [4, 8, 16, 24, 32, 40, 160], "aspp_out_channels": 16},
    ),
    "detr": Made("DetrForObjectDetection", "DetrConfig", {**DECODER, **HEADS, **FEED, **BACKBONE}),
    "conditional_detr": Made(
        "ConditionalDetrForObjectDetection", "ConditionalDetrConfig", {**DECODER, **HEADS, **FEED, **BACKBONE}
    ),
    "deformable_detr": Made(
        "DeformableDetrForObjectDetection",
        "DeformableDetrConfig",
        {**DECODER, **HEADS, **FEED, "use_timm_backbone": False, "backbone_config": RESNET_STAGES},
    ),
    "yolos": Made("YolosForObjectDetection", "YolosConfig", {**VIT, "image_size": [64, 64], "num_detection_tokens": 8}),
    "maskformer": Made("MaskFormerForInstanceSegmentation", "MaskFormerConfig", {}, 64, "class_queries_logits"),
    "mask2former": Made(
        "Mask2FormerForUniversalSegmentation",
        "Mask2FormerConfig",
        {
            "backbone_config": Part("SwinConfig", {**SWIN, **STAGES}),
            "feature_size": 32,
            "mask_feature_size": 32,
            "hidden_dim": 32,
            "encoder_feedforward_dim": 64,
            "dim_feedforward": 64,
            "encoder_layers": 2,
            "decoder_layers": 3,
            "num_attention_heads": 4,
            "num_queries": 8,
        },
        64,
        "class_queries_logits",
    ),
}


class Medical(NamedTuple):
    """A model of MONAI: its class, options, the size of its images or volumes, and their number of axes."""

    model: str
    options: dict[str, Any]
    size: int
    dims: int


def _monai() -> dict[str, Medical]:
    found: dict[str, Medical] = {}
    for dims, size in ((2, 64), (3, 32)):
        sides = {"spatial_dims": dims, "in_channels": 1, "out_channels": 3}
        unet = {"channels": (4, 8, 16, 32), "strides": (2, 2, 2)}
        kernels = {"kernel_size": [3] * 4, "strides": [1, 2, 2, 2], "upsample_kernel_size": [2, 2, 2]}
        swin = {"feature_size": 12, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2)}
        vit = {"feature_size": 4, "hidden_size": 24, "mlp_dim": 48, "num_heads": 4}
        densenet = {"init_features": 8, "growth_rate": 4, "block_config": (2, 2, 2, 2)}
        found |= {
            f"unet_{dims}d": Medical("UNet", {**sides, **unet, "num_res_units": 2, "dropout": 0.1}, size, dims),
            f"attention_unet_{dims}d": Medical("AttentionUnet", {**sides, **unet}, size, dims),
            f"basic_unet_{dims}d": Medical("BasicUNet", {**sides, "features": (4, 4, 8, 8, 16, 4)}, size, dims),
            f"basic_unet_plus_plus_{dims}d": Medical(
                "BasicUNetPlusPlus", {**sides, "features": (4, 4, 8, 8, 16, 4)}, size, dims
            ),
            f"dynunet_{dims}d": Medical("DynUNet", {**sides, **kernels, "filters": [4, 8, 16, 32]}, size, dims),
            f"dynunet_deep_{dims}d": Medical(
                "DynUNet",
                {**sides, **kernels, "filters": [4, 8, 16, 32], "deep_supervision": True, "deep_supr_num": 2},
                size,
                dims,
            ),
            f"segresnet_{dims}d": Medical("SegResNet", {**sides, "init_filters": 8, "dropout_prob": 0.1}, size, dims),
            f"segresnet_ds_{dims}d": Medical("SegResNetDS", {**sides, "init_filters": 8}, size, dims),
            f"segresnet_ds_deep_{dims}d": Medical(
                "SegResNetDS", {**sides, "init_filters": 8, "dsdepth": 3}, size, dims
            ),
            f"vnet_{dims}d": Medical("VNet", sides, size, dims),
            f"highresnet_{dims}d": Medical("HighResNet", sides, 16, dims),
            f"unetr_{dims}d": Medical("UNETR", {**sides, **vit, "img_size": size}, size, dims),
            f"swin_unetr_{dims}d": Medical("SwinUNETR", {**sides, **swin, "drop_rate": 0.1}, 64, dims),
            f"densenet_{dims}d": Medical("DenseNet", {**sides, **densenet, "dropout_prob": 0.1}, size, dims),
            f"resnet_{dims}d": Medical(
                "ResNet",
                {
                    "block": "basic",
                    "layers": [1, 1, 1, 1],
                    "block_inplanes": [4, 8, 16, 32],
                    "spatial_dims": dims,
                    "n_input_channels": 1,
                    "num_classes": 3,
                },
                size,
                dims,
            ),
        }
    return found


MONAI = _monai()

SMP_ENCODERS = ("resnet18", "mobilenet_v2")
SMP: dict[str, dict[str, Any]] = {
    "Unet": {},
    "UnetPlusPlus": {},
    "MAnet": {},
    "Linknet": {},
    "FPN": {},
    "PSPNet": {},
    "PAN": {},
    "DeepLabV3": {},
    "DeepLabV3Plus": {},
    "UPerNet": {},
    "Segformer": {},
    "DPT": {"encoder_name": "tu-vit_tiny_patch16_224", "dynamic_img_size": True},
}

"""Patterns of names that several layouts share."""

HEAD = "classifier or head, not part of the features"
UNUSED = "not needed for features or embedding"
MOMENTUM = "momentum network"
TRUNK = r"(conv1|bn1|layer\d)\."
RESNET = (rf"{{p}}{TRUNK}", r"backbone.\1.")
LINEAR = (r"{p}fc\.", "classifier.")
HEADS = r"(^|\.)(fc|linear|classifier|online_classifier|head|projector|projection_head|predictor)\."
SHORTCUT = (r"{p}(layer\d\.\d+)\.shortcut\.", r"backbone.\1.downsample.")
VIT_ANCHOR = r"cls_token$"
VIT = (r"{p}(cls_token|pos_embed|reg_token|patch_embed\.|blocks\.|norm\.)", r"backbone.\1")
SEQUENTIAL_RESNET = (  # nn.Sequential(*torchvision_resnet.children())
    (r"{p}0\.", "backbone.conv1."), (r"{p}1\.", "backbone.bn1."), (r"{p}(\d)\.", "backbone.layer<1-3>."),
)  # fmt: skip

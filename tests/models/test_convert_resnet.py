"""Imported residual encoders give the features of the networks that they came from."""

from __future__ import annotations

import pytest
import torch
from monai.networks.nets.resnet import ResNet, ResNetFeatures
from torch import nn

from napari_attention3d.errors import InputError, ModelFileError
from napari_attention3d.models.convert import ConvertOptions, convert
from napari_attention3d.models.convert_card import CardOptions, card_of_import, save_import
from napari_attention3d.models.convert_match import WeightsMismatchError
from napari_attention3d.models.convert_resnet import inflate
from napari_attention3d.models.store import load_model

LIGHT = {"features": 4, "autoencoder": (1, 1), "kv_pool": 2, "head_width": 4}
NORMS = (nn.BatchNorm2d, nn.BatchNorm3d)


def stir(network):
    """A fresh norm is the identity and would hide swapped layers."""
    for module in network.modules():
        if isinstance(module, NORMS):
            nn.init.uniform_(module.weight, 0.6, 1.2)
            nn.init.normal_(module.bias, std=0.2)
            module.running_mean.normal_(std=0.2)
            module.running_var.uniform_(0.6, 1.5)
    return network.eval()


def dilate(network):
    """MONAI's network with MedicalNet's last two levels: dilated by 2 and 4, not strided."""
    for level, dilation in ((network.layer3, 2), (network.layer4, 4)):
        for module in level.modules():
            if isinstance(module, nn.Conv3d):
                module.stride = (1, 1, 1)
                if module.kernel_size == (3, 3, 3):
                    module.dilation = module.padding = (dilation,) * 3
            # Shortcut A is a function bound to its stride.
            if hasattr(module, "downsample") and hasattr(module.downsample, "keywords"):
                module.downsample.keywords["stride"] = 1
    return network


LAYERS = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}


class Narrow(ResNet):
    """MONAI's network for MedicalNet's weights, with an eighth of the channels."""

    forward = ResNetFeatures.forward

    def __init__(self, depth):
        super().__init__(
            "bottleneck" if depth == 50 else "basic",
            LAYERS[depth],
            [8, 16, 32, 64],
            n_input_channels=1,
            conv1_t_stride=2,
            shortcut_type="A" if depth in (18, 34) else "B",
            feed_forward=False,
            bias_downsample=False,
        )


def monai(depth, full=False):
    torch.manual_seed(depth)
    network = ResNetFeatures(f"resnet{depth}", pretrained=False) if full else Narrow(depth)
    stir(network)
    network.load_state_dict({k: v.half().float() for k, v in network.state_dict().items()})
    return network


def medicalnet_file(path, state):
    wrapped = {"epoch": 5, "state_dict": {f"module.{k}": v.half() for k, v in state.items()}}
    torch.save(wrapped, path)
    return path


def load(path, **options):
    return convert(path, options=ConvertOptions(**options), network_options=LIGHT)


def worst(ours, theirs):
    assert [a.shape for a in ours] == [b.shape for b in theirs]
    return max(
        float((a - b).abs().max() / b.abs().max().clamp(min=1))
        for a, b in zip(ours, theirs, strict=True)
    )


@pytest.mark.parametrize("full", [False, pytest.param(True, marks=pytest.mark.long)])
@pytest.mark.parametrize(("depth", "shortcut"), [(10, "B"), (18, "A"), (34, "A"), (50, "B")])
def test_medicalnet_features_equal_monais(tmp_path, depth, shortcut, full):
    theirs = monai(depth, full)
    path = medicalnet_file(tmp_path / f"resnet_{depth}.pth", theirs.state_dict())
    found = load(path)
    assert found.kind == "medicalnet"
    assert found.encoder_only
    assert (found.inferred["depth"], found.inferred["shortcut"]) == (depth, shortcut)
    encoder = found.network.encoder
    x = torch.randn(1, 1, 40, 33, 24)
    with torch.no_grad():
        strided = theirs(x)
        expected, actual = dilate(theirs)(x), encoder(x)
    assert worst(actual, expected) <= 1e-5
    # The same file fits a strided network as well, and gives other features there.
    assert actual[4].shape != strided[4].shape
    other = load(path, dilated=False).network.encoder
    with torch.no_grad():
        assert worst(other(x), strided) <= 1e-5


def test_batch_statistics_of_training_are_equal_too(tmp_path):
    theirs = monai(10)
    path = medicalnet_file(tmp_path / "w.pth", theirs.state_dict())
    encoder = load(path).network.encoder.train()
    x = torch.randn(2, 1, 32, 32, 24)
    with torch.no_grad():
        assert worst(encoder(x), dilate(theirs).train()(x)) <= 1e-4


def test_every_tensor_of_the_encoder_matters(tmp_path):
    path = medicalnet_file(tmp_path / "w.pth", monai(10).state_dict())
    encoder = load(path).network.encoder
    x = torch.randn(1, 1, 24, 24, 24)
    with torch.no_grad():
        before = encoder(x)[-1]
        for name, tensor in encoder.state_dict().items():
            if name.endswith("num_batches_tracked"):
                continue
            kept = tensor.clone()
            tensor.add_(0.1 * torch.rand_like(tensor) + 0.05)
            assert (encoder(x)[-1] - before).abs().max() > 1e-6, name
            tensor.copy_(kept)


def test_heads_are_dropped_by_name_and_nothing_else(tmp_path):
    state = monai(10).state_dict()
    state |= {"conv_seg.0.weight": torch.ones(3), "fc.weight": torch.ones(2, 2)}
    found = load(medicalnet_file(tmp_path / "w.pth", state))
    dropped = [k for k in found.dropped if not k.endswith("num_batches_tracked")]
    assert sorted(dropped) == ["conv_seg.0.weight", "fc.weight"]
    state["fcx.weight"] = torch.ones(1)
    with pytest.raises(WeightsMismatchError) as error:
        load(medicalnet_file(tmp_path / "w.pth", state))
    assert error.value.unexpected == ("fcx.weight",)


def test_shortcuts_that_do_not_fit_the_file_are_refused(tmp_path):
    state = monai(10).state_dict()
    bare = {k: v for k, v in state.items() if ".downsample." not in k}
    # All of a B file's shortcuts gone: it could pass for A, so it must be said.
    with pytest.raises(WeightsMismatchError, match="--shortcut A") as error:
        load(medicalnet_file(tmp_path / "w.pth", bare))
    assert len(error.value.missing) == 15
    assert all(".downsample." in name for name in error.value.missing)
    assert load(medicalnet_file(tmp_path / "w.pth", bare), shortcut="A").mapped > 40
    with pytest.raises(WeightsMismatchError) as error:
        load(medicalnet_file(tmp_path / "w.pth", state), shortcut="A")
    assert len(error.value.unexpected) == 15
    part = {k: v for k, v in state.items() if not k.startswith("layer3.0.downsample.")}
    with pytest.raises(WeightsMismatchError) as error:
        load(medicalnet_file(tmp_path / "w.pth", part))
    assert len(error.value.missing) == 5
    path = medicalnet_file(tmp_path / "w.pth", monai(18).state_dict())
    with pytest.raises(WeightsMismatchError) as error:
        load(path, shortcut="B")
    assert len(error.value.missing) == 15


def test_a_biased_shortcut_is_refused_key_by_key(tmp_path):
    state = monai(10).state_dict() | {"layer2.0.downsample.0.bias": torch.zeros(16)}
    with pytest.raises(WeightsMismatchError) as error:
        load(medicalnet_file(tmp_path / "w.pth", state))
    assert error.value.lines == ["unexpected   layer2.0.downsample.0.bias"]


def test_other_depths_and_missing_tensors_are_refused(tmp_path):
    state = monai(10).state_dict()
    deeper = {k.replace("layer3.0.", "layer3.22."): v for k, v in state.items()}
    with pytest.raises(ModelFileError, match="1, 1, 23, 1 basic blocks"):
        load(medicalnet_file(tmp_path / "w.pth", deeper))
    for name in ("conv1.weight", "bn1.running_var", "layer4.0.conv1.weight", "layer2.0.bn2.bias"):
        lacking = {k: v for k, v in state.items() if k != name}
        with pytest.raises(ModelFileError):
            load(medicalnet_file(tmp_path / "w.pth", lacking))


# ---- 2D, written from the paper with torchvision's names


class Block2D(nn.Module):
    def __init__(self, a, width, stride, deep):
        super().__init__()
        out = 4 * width if deep else width
        sizes = [(a, width, 1), (width, width, 3), (width, out, 1)]
        sizes = sizes if deep else [(a, width, 3), (width, width, 3)]
        # The stride lies on the first 3x3 convolution.
        strided = 1 if deep else 0
        for i, (b, c, k) in enumerate(sizes):
            step = stride if i == strided else 1
            self.add_module(f"conv{i + 1}", nn.Conv2d(b, c, k, step, k // 2, bias=False))
            self.add_module(f"bn{i + 1}", nn.BatchNorm2d(c))
        self.count = len(sizes)
        if stride != 1 or a != out:
            self.downsample = nn.Sequential(
                nn.Conv2d(a, out, 1, stride, bias=False), nn.BatchNorm2d(out)
            )

    def forward(self, x):
        y = x
        for i in range(1, self.count + 1):
            y = self.get_submodule(f"bn{i}")(self.get_submodule(f"conv{i}")(y))
            y = y.relu() if i < self.count else y
        short = self.downsample(x) if hasattr(self, "downsample") else x
        return (y + short).relu()


class ResNet2D(nn.Module):
    def __init__(self, blocks, deep, widths=(8, 8, 16, 16), classes=10):
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        a = widths[0]
        for level, (n, width) in enumerate(zip(blocks, widths, strict=True)):
            row = []
            for i in range(n):
                row.append(Block2D(a, width, 2 if i == 0 and level else 1, deep))
                a = 4 * width if deep else width
            self.add_module(f"layer{level + 1}", nn.Sequential(*row))
        self.fc = nn.Linear(a, classes)

    def forward(self, x):
        x = self.bn1(self.conv1(x)).relu()
        features = [x]
        x = nn.functional.max_pool2d(x, 3, 2, 1)
        for level in range(1, 5):
            x = self.get_submodule(f"layer{level}")(x)
            features.append(x)
        return features


RESNETS = {18: ((2, 2, 2, 2), False), 34: ((3, 4, 6, 3), False), 50: ((3, 4, 6, 3), True)}


def imagenet(depth):
    torch.manual_seed(depth)
    return stir(ResNet2D(*RESNETS[depth]))


# As torchvision's documentation states them ("num_params" of the ImageNet weights).
PARAMETERS = {18: 11_689_512, 34: 21_797_672, 50: 25_557_032}


@pytest.mark.parametrize("depth", [18, 34, 50])
def test_the_reference_has_torchvisions_layout(depth):
    """Names and shapes that torchvision's files are known to have; without torchvision."""
    with torch.device("meta"):
        reference = ResNet2D(*RESNETS[depth], widths=(64, 128, 256, 512), classes=1000)
    assert sum(p.numel() for p in reference.parameters()) == PARAMETERS[depth]
    shapes = {name: tuple(t.shape) for name, t in reference.state_dict().items()}
    out = 4 if depth == 50 else 1
    assert shapes["conv1.weight"] == (64, 3, 7, 7)
    assert shapes["fc.weight"] == (1000, 512 * out)
    assert shapes["layer4.0.downsample.0.weight"] == (512 * out, 256 * out, 1, 1)
    assert shapes["layer2.0.downsample.1.running_mean"] == (128 * out,)
    assert ("layer1.0.downsample.0.weight" in shapes) == (depth == 50)
    assert shapes["layer3.1.conv2.weight"] == (256, 256, 3, 3)
    assert ("layer1.0.conv3.weight" in shapes) == (depth == 50)


@pytest.mark.parametrize("depth", [18, 34, 50])
def test_the_reference_is_torchvisions(depth):
    """Where torchvision is installed (it is not needed otherwise)."""
    models = pytest.importorskip("torchvision.models")
    theirs = getattr(models, f"resnet{depth}")(weights=None).eval()
    ours = ResNet2D(*RESNETS[depth], widths=(64, 128, 256, 512), classes=1000).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(1, 3, 64, 48)
    with torch.no_grad():
        assert torch.allclose(ours.fc(ours(x)[-1].mean((2, 3))), theirs(x), atol=1e-4)


@pytest.mark.parametrize("depth", [18, pytest.param(34, marks=pytest.mark.long), 50])
def test_centre_inflation_gives_the_images_features_at_every_slice(tmp_path, depth):
    flat = imagenet(depth)
    torch.save(flat.state_dict(), tmp_path / "w.pth")
    found = load(tmp_path / "w.pth")
    assert (found.kind, found.inferred["depth"]) == ("imagenet", depth)
    assert sorted(k for k in found.dropped if "num_batches" not in k) == ["fc.bias", "fc.weight"]
    image = torch.randn(1, 1, 56, 41)
    volume = image[:, :, None].expand(1, 1, 24, 56, 41)
    with torch.no_grad():
        features, expected = found.network.encoder(volume), flat(image.expand(1, 3, 56, 41))
    for deep, plane in zip(features, expected, strict=True):
        assert deep.shape[3:] == plane.shape[2:]
        scale = plane.abs().max().clamp(min=1)
        assert ((deep - plane[:, :, None]).abs().max() / scale) <= 1e-5


def test_average_inflation_equals_the_image_far_from_the_ends_only(tmp_path):
    flat = imagenet(18)
    torch.save(flat.state_dict(), tmp_path / "w.pth")
    found = load(tmp_path / "w.pth", inflation="average")
    image = torch.randn(1, 1, 24, 24)
    volume = image[:, :, None].expand(1, 1, 64, 24, 24)
    with torch.no_grad():
        stem, one = found.network.encoder(volume)[:2]
        stem2, one2 = flat(image.expand(1, 3, 24, 24))[:2]
    for deep, plane in ((stem, stem2), (one, one2)):
        error = (deep - plane[:, :, None]).abs().amax((0, 1, 3, 4))
        assert error[len(error) // 2] <= 1e-5
        assert error[0] > 1e-3


def test_three_channels_stay_three_if_asked_for(tmp_path):
    flat = imagenet(18)
    torch.save(flat.state_dict(), tmp_path / "w.pth")
    found = convert(tmp_path / "w.pth", in_channels=3, network_options=LIGHT)
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        features = found.network.encoder(image[:, :, None].expand(1, 3, 8, 32, 32))
        assert worst([f[:, :, 0] for f in features], flat(image)) <= 1e-5
    with pytest.raises(ModelFileError, match="reads 3 channels"):
        convert(tmp_path / "w.pth", in_channels=2, network_options=LIGHT)


def test_flat_and_deep_weights_are_not_taken_for_each_other(tmp_path):
    torch.save(imagenet(18).state_dict(), tmp_path / "flat.pth")
    with pytest.raises(ModelFileError, match="4 axes"):
        convert(tmp_path / "flat.pth", "medicalnet")
    path = medicalnet_file(tmp_path / "deep.pth", monai(18).state_dict())
    with pytest.raises(ModelFileError, match="5 axes"):
        convert(path, "imagenet")
    with pytest.raises(InputError, match="dilated is for weights of"):
        load(tmp_path / "flat.pth", dilated=True)


def test_grouped_convolutions_are_refused_key_by_key(tmp_path):
    state = imagenet(50).state_dict()
    state["layer1.0.conv2.weight"] = state["layer1.0.conv2.weight"][:, :2].clone()
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(WeightsMismatchError) as error:
        load(tmp_path / "w.pth")
    assert list(error.value.wrong) == ["layer1.0.conv2.weight"]


def test_inflation_keeps_the_sum_of_a_kernel():
    weight = torch.randn(4, 3, 5, 5)
    centre, average = inflate(weight, "centre"), inflate(weight, "average")
    assert centre.shape == average.shape == (4, 3, 5, 5, 5)
    assert torch.equal(centre[:, :, 2], weight)
    assert torch.allclose(average.sum(2), weight, atol=1e-6)
    assert not centre[:, :, [0, 1, 3, 4]].any()


# ---- the model file


def test_the_model_file_says_that_it_must_be_trained(tmp_path):
    torch.save(imagenet(18).state_dict(), tmp_path / "w.pth")
    found = convert(tmp_path / "w.pth", num_classes=3, network_options=LIGHT)
    card = card_of_import(found, CardOptions("start"))
    assert "Only the encoder is trained" in card.limitations
    assert "train" in card.limitations
    assert card.metrics["import"]["encoder_only"] is True
    path = save_import(found, card, tmp_path / "start.safetensors")
    model = load_model(path)
    assert model.network.num_classes == 3
    assert model.network.config == found.network.config
    # The same file again: the same model, the untrained part included.
    again = convert(tmp_path / "w.pth", num_classes=3, network_options=LIGHT)
    for name, tensor in again.network.state_dict().items():
        assert torch.equal(tensor, model.network.state_dict()[name]), name

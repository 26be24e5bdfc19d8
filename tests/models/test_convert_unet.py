"""Imported attention U-Nets give the outputs of the networks that they came from."""

from __future__ import annotations

import pytest
import torch
from monai.networks.nets import AttentionUnet
from torch import nn
from torch.nn.functional import interpolate

from napari_attention3d.errors import InputError, ModelFileError
from napari_attention3d.models.convert import ConvertOptions, convert, detect
from napari_attention3d.models.convert_card import CardOptions, card_of_import, save_import
from napari_attention3d.models.convert_match import WeightsMismatchError, fill, under
from napari_attention3d.models.store import load_model
from napari_attention3d.networks import OktayAttentionUNet, build_network
from napari_attention3d.networks.oktay_attention_unet import oktay_keys

# ---- the authors' network, written from its description with its parameters' names


def conv_norm(a, b, kernel):
    return nn.Sequential(nn.Conv3d(a, b, kernel, padding=kernel // 2), nn.BatchNorm3d(b), nn.ReLU())


class Stack(nn.Module):
    def __init__(self, a, b):
        super().__init__()
        self.conv1, self.conv2 = conv_norm(a, b, 3), conv_norm(b, b, 3)

    def forward(self, x):
        return self.conv2(self.conv1(x))


class Gate(nn.Module):
    def __init__(self, skip, gating, aligned):
        super().__init__()
        self.theta = nn.Conv3d(skip, skip, 2, stride=2, bias=False)
        self.phi = nn.Conv3d(gating, skip, 1)
        self.psi = nn.Conv3d(skip, 1, 1)
        self.W = nn.Sequential(nn.Conv3d(skip, skip, 1), nn.BatchNorm3d(skip))
        self.aligned = aligned

    def forward(self, x, g):
        theta = self.theta(x)
        phi = interpolate(
            self.phi(g), size=theta.shape[2:], mode="trilinear", align_corners=self.aligned
        )
        alpha = torch.sigmoid(self.psi(torch.relu(theta + phi)))
        alpha = interpolate(alpha, size=x.shape[2:], mode="trilinear", align_corners=self.aligned)
        return self.W(alpha.expand_as(x) * x)


class Gates(nn.Module):
    def __init__(self, skip, gating, count, aligned):
        super().__init__()
        self.gate_block_1 = Gate(skip, gating, aligned)
        if count == 2:
            self.gate_block_2 = Gate(skip, gating, aligned)
        self.combine_gates = conv_norm(count * skip, skip, 1)
        self.count = count

    def forward(self, x, g):
        out = [self.gate_block_1(x, g)]
        if self.count == 2:
            out.append(self.gate_block_2(x, g))
        return self.combine_gates(torch.cat(out, 1))


class Up(nn.Module):
    def __init__(self, coarse, skip):
        super().__init__()
        self.conv = Stack(coarse + skip, skip)


class Holder(nn.Module):
    def __init__(self, **parts):
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)


class Reference(nn.Module):
    """Levels 2 to 4 gated, level 1 open, logits of four levels joined."""

    def __init__(self, channels, classes, widths, gates, aligned):
        super().__init__()
        w = (channels, *widths)
        for i in range(1, 5):
            self.add_module(f"conv{i}", Stack(w[i - 1], w[i]))
            self.add_module(f"up_concat{i}", Up(w[i + 1], w[i]))
        self.center = Stack(w[4], w[5])
        self.gating = Holder(conv1=conv_norm(w[5], w[5], 1))
        for i in range(2, 5):
            self.add_module(f"attentionblock{i}", Gates(w[i], w[i + 1], gates, aligned))
            head = nn.Conv3d(w[i], classes, 1)
            self.add_module(f"dsv{i}", Holder(dsv=nn.Sequential(head)))
        self.dsv1 = nn.Conv3d(w[1], classes, 1)
        self.final = nn.Conv3d(4 * classes, classes, 1)
        self.aligned = aligned

    def larger(self, x, factor):
        return interpolate(x, scale_factor=factor, mode="trilinear", align_corners=self.aligned)

    def forward(self, x):
        part = self.get_submodule
        skips = []
        for i in range(1, 5):
            x = part(f"conv{i}")(x)
            skips.append(x)
            x = nn.functional.max_pool3d(x, 2)
        below = self.center(x)
        gating = self.gating.conv1(below)
        sides = {}
        for i in (4, 3, 2, 1):
            skip = skips[i - 1]
            if i > 1:
                skip = part(f"attentionblock{i}")(skip, gating)
            up = self.larger(below, 2)
            below = gating = part(f"up_concat{i}").conv(torch.cat((skip, up), 1))
            head = self.dsv1 if i == 1 else part(f"dsv{i}").dsv
            sides[i] = self.larger(head(below), 2 ** (i - 1))
        return self.final(torch.cat([sides[i] for i in (1, 2, 3, 4)], 1))


def stir(network, seed=0):
    """A fresh norm is the identity and would hide swapped layers."""
    torch.manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.5)
            module.running_mean.normal_(std=0.5)
            module.running_var.uniform_(0.5, 2)
        elif isinstance(module, nn.PReLU):
            nn.init.uniform_(module.weight, 0.1, 0.9)
    return network


WIDTHS = (3, 4, 5, 6, 7)


def oktay(gates=1, aligned=True, channels=1, classes=3):
    torch.manual_seed(gates)
    return stir(Reference(channels, classes, WIDTHS, gates, aligned))


def worst(ours, theirs, x, training=False):
    ours.train(training), theirs.train(training)
    with torch.no_grad():
        return float((ours(x).logits - theirs(x)).abs().max())


# ---- Oktay


@pytest.mark.parametrize("gates", [1, 2])
@pytest.mark.parametrize("aligned", [True, False])
def test_oktay_gives_the_same_output(tmp_path, gates, aligned):
    theirs = oktay(gates, aligned, channels=2)
    path = tmp_path / "012_net_S.pth"
    torch.save(theirs.state_dict(), path)
    found = convert(path, options=ConvertOptions(align_corners=aligned))
    assert found.kind == "oktay"
    assert found.inferred == {
        "in_channels": 2,
        "num_classes": 3,
        "channels": list(WIDTHS),
        "gates_per_level": gates,
    }
    assert all(name.endswith("num_batches_tracked") for name in found.dropped)
    assert found.mapped + len(found.dropped) == len(theirs.state_dict())
    x = torch.randn(2, 2, 16, 32, 48)
    assert worst(found.network, theirs, x) <= 1e-5
    larger = torch.randn(1, 2, 32, 32, 48)
    assert worst(found.network, theirs, larger, training=True) <= 1e-5
    # What the batch norms learned in training mode is the same as well.
    assert worst(found.network, theirs, x) <= 1e-5
    # The other way of resizing is another network.
    other = convert(path, options=ConvertOptions(align_corners=not aligned))
    assert worst(other.network, theirs, x) > 1e-3


def test_oktay_is_aligned_unless_told_and_says_so(tmp_path):
    theirs = oktay()
    # torch 0.3 counted no batches.
    state = {k: v for k, v in theirs.state_dict().items() if "num_batches" not in k}
    torch.save(state, tmp_path / "w.pth")
    found = convert(tmp_path / "w.pth", "oktay")
    assert found.dropped == []
    assert found.network.align_corners is True
    assert any("aligned corners" in text for text in found.assumed)
    assert worst(found.network, theirs, torch.randn(1, 1, 32, 16, 32)) <= 1e-5


def test_oktay_takes_odd_sizes_where_the_original_can_not(tmp_path):
    theirs = oktay()
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    ours = convert(tmp_path / "w.pth").network
    x = torch.randn(1, 1, 17, 40, 33)
    with torch.no_grad():
        assert ours(x).logits.shape == (1, 3, 17, 40, 33)
        with pytest.raises(RuntimeError):
            theirs.eval()(x)


def test_every_tensor_of_oktay_matters(tmp_path):
    gates = 2
    theirs = oktay(gates)
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    ours = convert(tmp_path / "w.pth").network
    x = torch.randn(1, 1, 16, 16, 16)
    keys = under(oktay_keys(gates), list(ours.state_dict()))
    assert sorted(keys.values()) == sorted(
        k for k in theirs.state_dict() if not k.endswith("num_batches_tracked")
    )
    original = theirs.state_dict()
    with torch.no_grad():
        before = ours(x).logits
        for name in keys.values():
            changed = {k: v.clone() for k, v in original.items()}
            changed[name] += 0.3 + 0.3 * torch.rand_like(changed[name])
            fill(ours, changed, keys, file="w.pth", what="a test")
            theirs.load_state_dict(changed)
            moved = ours(x).logits
            assert (moved - before).abs().max() > 1e-6, name
            same = theirs.eval()(x)
            assert (moved - same).abs().max() <= 1e-5 * max(1, same.abs().max()), name


def test_parameters_are_as_many_as_in_the_authors_networks():
    counts = [OktayAttentionUNet(1, 4, gates_per_level=gates).parameter_count() for gates in (1, 2)]
    assert [round(n / 1e6, 3) for n in counts] == [6.214, 6.473]


def test_the_older_grid_network_is_refused_by_name():
    tensors = {"attentionblock2.theta.weight": torch.ones(4, 4, 2, 2, 1)}
    with pytest.raises(ModelFileError, match="older grid-attention"):
        detect(tensors, "w.pth")


# ---- MONAI

MONAI = [
    {"channels": (4, 8, 16), "strides": (2, 2), "in": 1, "out": 2},
    {"channels": (4, 8, 8, 16), "strides": ((1, 2, 2), (2, 2, 2), (2, 1, 2)), "in": 2, "out": 3},
    {"channels": (4, 6), "strides": ((2, 2, 2),), "in": 1, "out": 5, "kernel": 5, "up": 5},
]


def monai(case):
    torch.manual_seed(3)
    kernels = {"kernel_size": case.get("kernel", 3), "up_kernel_size": case.get("up", 3)}
    return stir(
        AttentionUnet(3, case["in"], case["out"], case["channels"], case["strides"], **kernels)
    )


@pytest.mark.parametrize("case", MONAI)
@pytest.mark.parametrize("container", ["bare", "state_dict"])
def test_monai_gives_the_same_output(tmp_path, case, container):
    theirs = monai(case)
    state = theirs.state_dict()
    wrapped = {"state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 1}
    torch.save(state if container == "bare" else wrapped, tmp_path / "w.pt")
    found = convert(tmp_path / "w.pt", options=ConvertOptions(strides=case["strides"]))
    assert found.kind == "monai"
    assert found.inferred["channels"] == list(case["channels"])
    assert found.inferred["in_channels"] == case["in"]
    assert found.inferred["num_classes"] == case["out"]
    x = torch.randn(2, case["in"], 16, 24, 32)
    assert worst(found.network, theirs, x) <= 1e-5
    assert worst(found.network, theirs, x, training=True) <= 1e-5


def test_monai_strides_are_2_unless_told(tmp_path):
    torch.save(monai(MONAI[0]).state_dict(), tmp_path / "w.pt")
    found = convert(tmp_path / "w.pt")
    assert found.network.total_stride == (4, 4, 4)
    assert any("strides 2" in text for text in found.assumed)
    with pytest.raises(ModelFileError, match="needs 2 strides, not 1"):
        convert(tmp_path / "w.pt", options=ConvertOptions(strides=(2,)))


def test_a_single_sigmoid_output_becomes_two_classes(tmp_path):
    theirs = monai({**MONAI[0], "out": 1})
    torch.save(theirs.state_dict(), tmp_path / "w.pt")
    found = convert(tmp_path / "w.pt")
    x = torch.randn(1, 1, 16, 16, 24)
    with torch.no_grad():
        ours = found.network.eval()(x).logits.softmax(1)
        expected = theirs.eval()(x).sigmoid()
    assert (ours[:, 1:] - expected).abs().max() <= 1e-5
    assert any("sigmoid" in text for text in found.assumed)


def test_monai_in_2d_is_refused(tmp_path):
    torch.save(AttentionUnet(2, 1, 2, (4, 8), (2,)).state_dict(), tmp_path / "w.pt")
    with pytest.raises(ModelFileError, match="not a 3D network"):
        convert(tmp_path / "w.pt")


# ---- what does not fit


def broken(state):
    state = dict(state)
    del state["model.2.conv.bias"], state["model.0.conv.1.conv.weight"]
    state["model.9.weight"] = torch.ones(3)
    state["model.1.merge.conv.bias"] = torch.ones(5)
    return state


def test_every_key_that_does_not_fit_is_named_and_nothing_is_loaded(tmp_path):
    state = monai(MONAI[0]).state_dict()
    torch.save(broken(state), tmp_path / "w.pt")
    with pytest.raises(WeightsMismatchError) as error:
        convert(tmp_path / "w.pt")
    assert set(error.value.missing) == {"model.2.conv.bias", "model.0.conv.1.conv.weight"}
    assert error.value.unexpected == ("model.9.weight",)
    assert error.value.wrong == {"model.1.merge.conv.bias": ((5,), (4,))}
    assert len(error.value.lines) == 4
    assert "nothing was loaded" in str(error.value)
    assert "\n" not in str(error.value)


def test_nothing_loads_half():
    network = build_network("additive-attention-unet", channels=(4, 8, 16))
    before = {k: v.clone() for k, v in network.state_dict().items()}
    from napari_attention3d.networks.additive_attention_unet import monai_keys

    keys = under(monai_keys(3), list(before))
    with pytest.raises(WeightsMismatchError):
        fill(network, broken(monai(MONAI[0]).state_dict()), keys, file="w", what="it")
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())


@pytest.mark.parametrize("gates", [1, 2])
def test_each_single_missing_or_twisted_tensor_is_refused(tmp_path, gates):
    state = oktay(gates).state_dict()
    torch.save(state, tmp_path / "w.pt")
    ours = convert(tmp_path / "w.pt").network
    keys = under(oktay_keys(gates), list(ours.state_dict()))
    for name in keys.values():
        lacking = {k: v for k, v in state.items() if k != name}
        with pytest.raises(WeightsMismatchError) as error:
            fill(ours, lacking, keys, file="w.pt", what="it")
        assert error.value.missing == (name,)
        with pytest.raises(WeightsMismatchError) as error:
            fill(ours, {**state, name: state[name][None]}, keys, file="w.pt", what="it")
        assert list(error.value.wrong) == [name]


@pytest.mark.parametrize("name", ["conv1.conv1.0.weight", "final.weight", "dsv1.bias"])
def test_a_file_that_lacks_a_tensor_is_refused(tmp_path, name):
    state = oktay().state_dict()
    del state[name]
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(WeightsMismatchError) as error:
        convert(tmp_path / "w.pt")
    assert name in error.value.missing


def test_options_of_another_source_are_refused(tmp_path):
    torch.save(monai(MONAI[0]).state_dict(), tmp_path / "w.pt")
    with pytest.raises(InputError, match="align_corners is for weights of"):
        convert(tmp_path / "w.pt", options=ConvertOptions(align_corners=True))
    with pytest.raises(WeightsMismatchError):
        convert(tmp_path / "w.pt", "oktay")


def test_weights_of_an_unknown_network_are_refused(tmp_path):
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "w.pt")
    with pytest.raises(ModelFileError, match=r"unknown network .*MONAI AttentionUnet"):
        convert(tmp_path / "w.pt")


# ---- the model file


def test_the_card_tells_what_is_known_and_what_is_not(tmp_path):
    torch.save(oktay().state_dict(), tmp_path / "w.pth")
    found = convert(tmp_path / "w.pth")
    card = card_of_import(found, CardOptions("pancreas"))
    assert card.class_names == ["background", "class 1", "class 2"]
    assert card.spacing is None
    assert card.normalisation.kind == "zscore"
    assert "aligned corners" in card.description
    assert "own spacing" in card.description
    assert card.metrics["import"]["sha256"] == found.source.sha256
    path = save_import(found, card, tmp_path / "pancreas.safetensors")
    model = load_model(path)
    x = torch.randn(1, 1, 20, 20, 20)
    with torch.no_grad():
        assert torch.equal(model.network(x).logits, found.network.eval()(x).logits)
    told = CardOptions("p", classes=("background", "pancreas", "tumour"), spacing=(2.0, 2.0, 2.0))
    card = card_of_import(found, told)
    assert card.spacing == (2.0, 2.0, 2.0)
    assert "own spacing" not in card.description
    with pytest.raises(InputError, match="has 3 classes"):
        card_of_import(found, CardOptions("p", classes=("background", "pancreas")))
    with pytest.raises(InputError, match="has 1 channels"):
        card_of_import(found, CardOptions("p", channels=("a", "b")))


def test_a_network_that_gives_nan_is_refused(tmp_path):
    state = monai(MONAI[0]).state_dict()
    state["model.0.conv.0.adn.N.running_var"] -= 10
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(ModelFileError, match="NaN or infinity for noise"):
        convert(tmp_path / "w.pt")

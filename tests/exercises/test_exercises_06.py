"""Notebook 06: each usual mistake has a hint of its own, and no answer is an error message."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from answers import points, solutions, verdict
from torch import nn

from dlkit.analysis import integrated_gradients, saliency
from dlkit.exercises import what_a_cnn_sees as check

SOLUTIONS = solutions("06_what_a_cnn_sees")


@pytest.mark.parametrize("name", ["occlude", "saliency", "integrated_gradients", "ascend"])
@pytest.mark.parametrize("nonsense", ["three", [1.0], 2.0, torch.zeros(2, 7), torch.full((6, 9), torch.nan)])
def test_nonsense_is_answered_in_a_line(capsys, name, nonsense):
    assert verdict(capsys, getattr(check, name), lambda *_: nonsense).startswith("✗ Not yet")


# 1. Occlusion.


def occluded(paint=None, take=lambda whole, covered: whole - covered, places=None, start=torch.clone):
    """An answer with its painting, its difference, its places or its copy of the image changed."""

    def square(copy, r, c, size):
        copy[r : r + size, c : c + size] = 0

    def answer(score, image, size):
        high, wide = (length - size + (1 if places is None else places) for length in image.shape)
        losses = torch.zeros(high, wide)
        for r in range(high):
            for c in range(wide):
                copy = start(image)
                (paint or square)(copy, r, c, size)
                losses[r, c] = take(score(image[None]), score(copy[None]))
        return losses

    return answer


def painted(value=0.0, shift=lambda size: 0, side=lambda size: size):
    def paint(copy, r, c, size):
        r, c = r - shift(size), c - shift(size)
        copy[max(r, 0) : r + side(size), max(c, 0) : c + side(size)] = value

    return paint


def all_but_the_square(copy, r, c, size):
    kept = copy[r : r + size, c : c + size].clone()
    copy.zero_()
    copy[r : r + size, c : c + size] = kept


def on_one_copy(score, image, size):
    copy = image.clone()
    return occluded(start=lambda image: copy)(score, image, size)


def in_place(score, image, size):
    return occluded(start=lambda image: image)(score, image, size)


OCCLUSIONS = {
    "Right but for the sign": occluded(take=lambda whole, left: left - whole),
    "Those are the scores with the square": occluded(take=lambda whole, left: left),
    "no absolute value": occluded(take=lambda whole, left: (whole - left).abs()),
    "keep what is below 0": occluded(take=lambda whole, left: (whole - left).relu()),
    "Your square is grey": occluded(painted(0.5)),
    "The squares add up": on_one_copy,
    "has changed `image`": in_place,
    "blacks out all but the square": occluded(all_but_the_square),
    "the score of the square alone": occluded(all_but_the_square, take=lambda whole, left: left),
    "Your square is white": occluded(painted(1.0)),
    "not its centre": occluded(painted(shift=lambda size: 1)),
    "Your square is 1x1, and size=3": occluded(painted(side=lambda size: 1)),
    "Your square is 4x4, and size=3": occluded(painted(side=lambda size: size + 1)),
    "Your square is 3x3, and size=2": occluded(painted(side=lambda size: 3)),
    "as large as the image": lambda score, image, size: torch.zeros_like(image),
    "Off by one: a window of 3x3 has 4x7 places in 6x9 pixels; yours is 3x6": occluded(places=0),
    "side by side": lambda score, image, size: torch.zeros(len(image) // size, image.shape[1] // size),
    "Yours is transposed, 7x4": lambda *given: SOLUTIONS["occlude"](*given).T,
    "takes a batch, (batch, 6, 9) here, such as `image[None]`; it got (6, 9)": lambda score, image, size: score(image),
    "takes whole images; it got (1, 3, 3)": lambda score, image, size: score(image[None, :size, :size]),
    "takes a batch, (batch, 6, 9) here, such as `image[None]`; it got list": lambda score, image, size: score([image]),
    "That is the share of the score": occluded(take=lambda whole, left: (whole - left) / whole),
    "At [": occluded(take=lambda whole, left: (whole - left).round(decimals=1)),
    "make it one of floats": lambda *given: SOLUTIONS["occlude"](*given).long(),
    "That is one number": lambda *given: SOLUTIONS["occlude"](*given).sum(),
}


@pytest.mark.parametrize("hint", OCCLUSIONS)
def test_a_wrong_occlusion_gets_its_hint(capsys, hint):
    assert hint in verdict(capsys, check.occlude, OCCLUSIONS[hint])


def test_a_grey_square_is_told(capsys):
    def answer(score, image, size):
        return occluded(painted(image.mean()))(score, image, size)

    assert "Your square is grey" in verdict(capsys, check.occlude, answer)


def test_a_sign_is_told_after_what_else_is_wrong(capsys):
    answer = occluded(painted(1.0), take=lambda whole, left: left - whole)
    assert "Your square is white" in verdict(capsys, check.occlude, answer)


def for_a_fixed_size(score, image, size):
    """Right for the case of 6x9 pixels alone."""
    losses = torch.zeros(7 - size, 10 - size)
    for r in range(7 - size):
        for c in range(10 - size):
            copy = image.clone()
            copy[r : r + size, c : c + size] = 0
            losses[r, c] = score(image[None]) - score(copy[None])
    return losses


def test_an_answer_for_one_size_of_image_is_not_right(capsys):
    assert "this image has 7x5: take the sizes from `image.shape`" in verdict(capsys, check.occlude, for_a_fixed_size)


def as_a_list(score, image, size):
    def lost(r, c):
        copy = image.clone()
        copy[r : r + size, c : c + size] = 0
        return score(image.unsqueeze(0)).item() - score(copy.unsqueeze(0)).item()

    return [[lost(r, c) for c in range(image.shape[1] - size + 1)] for r in range(image.shape[0] - size + 1)]


def by_masks(score, image, size):
    """All at once: each pixel's mask is where a window of ones, laid at each place, is 0."""
    places = [(r, c) for r in range(image.shape[0] - size + 1) for c in range(image.shape[1] - size + 1)]
    masks = torch.ones(len(places), *image.shape)
    for mask, (r, c) in zip(masks, places, strict=True):
        mask[r : r + size, c : c + size] = 0
    return (score(image[None]) - score(image * masks)).view(image.shape[0] - size + 1, -1)


def restored(score, image, size):
    """Paints the image itself, and puts back what was there."""
    losses, whole = [], score(image[None])
    for r in range(len(image) - size + 1):
        for c in range(image.shape[1] - size + 1):
            kept = image[r : r + size, c : c + size].clone()
            image[r : r + size, c : c + size] = 0
            losses.append(whole - score(image[None]))
            image[r : r + size, c : c + size] = kept
    return torch.cat(losses).view(len(image) - size + 1, -1)


@pytest.mark.parametrize(
    "answer",
    [
        occluded(),
        as_a_list,
        by_masks,
        restored,
        lambda *given: np.array(as_a_list(*given), dtype=np.float32),
        lambda *given: by_masks(*given).double(),
        lambda *given: by_masks(*given).requires_grad_(),
        lambda *given: [list(row) for row in by_masks(*given)],
    ],
)
def test_other_ways_to_cover_are_right_too(capsys, answer):
    assert verdict(capsys, check.occlude, answer).startswith("✓")


# 2. Saliency.


def sloped(what=lambda logits, label: logits[label], made=torch.abs):
    """An answer with what is differentiated, or what is made of the gradient, changed."""

    def answer(net, image, label):
        pixels = image.clone().requires_grad_()
        return made(torch.autograd.grad(what(net(pixels[None])[0], label), pixels)[0])

    return answer


def backward(net, image, label):
    pixels = image.clone().requires_grad_()
    net(pixels[None])[0, label].backward()
    return pixels.grad.abs()


def on_the_image_itself(net, image, label):
    image.requires_grad_()
    return torch.autograd.grad(net(image[None])[0, label], image)[0].abs()


def times_the_image(net, image, label):
    return (sloped(made=lambda g: g)(net, image, label) * image).abs()


def frozen(net, image, label):
    net.requires_grad_(False)
    return backward(net, image, label)


def painted_over(net, image, label):
    result = sloped()(net, image, label)
    image.zero_()
    return result


def nudged(net, image, label):
    result = sloped()(net, image, label)
    with torch.no_grad():
        net.W += 0.1
    return result


def backward_then_zero(net, image, label):
    result = backward(net, image, label)
    net.zero_grad()
    return result


SALIENCIES = {
    "a pixel that lowers the logit matters too": sloped(made=lambda g: g),
    "That is minus the gradient": sloped(made=lambda g: -g),
    "leaves out the pixels that lower": sloped(made=torch.relu),
    "the square of the gradient": sloped(made=torch.square),
    "Right but for a factor": sloped(made=lambda g: g.abs() / g.abs().max()),
    "of the *probability*": sloped(lambda logits, label: logits.softmax(0)[label]),
    "of log p, the loss": sloped(lambda logits, label: -logits.log_softmax(0)[label]),
    "the sum of all logits": sloped(lambda logits, label: logits.sum()),
    "gradient times pixel": times_the_image,
    "of the *largest* logit": sloped(lambda logits, label: logits.max()),
    "of logit 3: the label given is 2": sloped(lambda logits, label: logits[3]),
    "How much does the label's logit change": sloped(made=lambda g: g.abs().sqrt()),
    "now requires gradients": on_the_image_itself,
    ".grad of the net's parameters is filled": backward,
    "the net can no longer learn": frozen,
    "has changed `image`": painted_over,
    "its weights are not what they were": lambda net, image, label: nudged(net, image, label),
    "Right but for the sign: an absolute value": sloped(made=lambda g: -g.abs()),
    "leave the gradient at its own size": sloped(made=lambda g: g.abs() / g.norm()),
    "Your function returns nothing": lambda net, image, label: print(end=""),
    "take the image out, `[0]`": lambda *given: sloped()(*given)[None],
    "`net` takes a batch, such as `image[None]`; it got (6, 9)": lambda net, image, label: net(image),
    "a value for each pixel, of shape (6, 9) here; yours has shape (9,)": sloped(made=lambda g: g.abs().sum(0)),
}


@pytest.mark.parametrize("hint", SALIENCIES)
def test_a_wrong_saliency_gets_its_hint(capsys, hint):
    assert hint in verdict(capsys, check.saliency, SALIENCIES[hint])


def test_gradients_that_a_net_had_are_not_to_be_deleted(capsys):
    assert "this net had gradients in its .grad" in verdict(capsys, check.saliency, backward_then_zero)


def test_an_answer_for_one_label_is_not_right(capsys):
    wrong = verdict(capsys, check.saliency, sloped(lambda logits, label: logits[2]))
    assert "the label given is 0" in wrong


def flat(net, image, label):
    pixels = image.flatten().requires_grad_()
    (slope,) = torch.autograd.grad(net(pixels.view(1, *image.shape)).squeeze(0)[label], pixels)
    return torch.where(slope < 0, -slope, slope).view(image.shape)


def of_a_batch(net, image, label):
    batch = image[None].detach().clone().requires_grad_(True)
    return torch.autograd.grad(net(batch)[:, label].sum(), [batch])[0].abs().max(0).values


def by_jacobian(net, image, label):
    return torch.autograd.functional.jacobian(lambda x: net(x[None])[0], image)[label].abs()


def graph_kept(net, image, label):
    pixels = image.clone().requires_grad_()
    return torch.autograd.grad(net(pixels[None])[0, label], pixels, create_graph=True)[0].abs()


@pytest.mark.parametrize(
    "answer",
    [
        flat,
        of_a_batch,
        by_jacobian,
        graph_kept,
        lambda *given: sloped()(*given).numpy(),
        lambda *given: np.abs(sloped(made=lambda g: g)(*given).numpy()).tolist(),
        lambda *given: sloped()(*given).double(),
    ],
)
def test_other_ways_to_a_saliency_are_right_too(capsys, answer):
    assert verdict(capsys, check.saliency, answer).startswith("✓")


@pytest.mark.parametrize("hint", ["of the *probability*", "of log p, the loss", "the sum of all logits"])
def test_what_is_differentiated_is_told_before_the_absolute_value(capsys, hint):
    what = {
        "of the *probability*": lambda logits, label: logits.softmax(0)[label],
        "of log p, the loss": lambda logits, label: logits.log_softmax(0)[label],
        "the sum of all logits": lambda logits, label: logits.sum(),
    }[hint]
    assert hint in verdict(capsys, check.saliency, sloped(what, made=lambda g: g))


def test_the_solution_works_on_a_net_with_convolutions():
    net = nn.Sequential(nn.Unflatten(1, (1, 6)), nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2 * 4 * 7, 3))
    assert SOLUTIONS["saliency"](net, torch.rand(6, 9), 1).shape == (6, 9)


# 3. Integrated gradients.


def integrated(shares, factor=lambda image, baseline: image - baseline, at=None, mean=True):
    """An answer whose path has these points; `at` makes a point of image, baseline and share."""

    def answer(gradient, image, baseline, steps):
        point = at or (lambda image, baseline, share: baseline + share * (image - baseline))
        gradients = torch.stack([gradient(point(image, baseline, share)) for share in shares(steps)])
        return factor(image, baseline) * (gradients.mean(0) if mean else gradients.sum(0))

    return answer


def middles(steps):
    return [(k + 0.5) / steps for k in range(steps)]


def trapezoid(gradient, image, baseline, steps):
    points = [gradient(baseline + k / steps * (image - baseline)) for k in range(steps + 1)]
    return (image - baseline) * (sum(points) - (points[0] + points[-1]) / 2) / steps


def no_difference(image, baseline):
    return torch.ones_like(image)


def the_image(image, baseline):
    return image


def moved(gradient, image, baseline, steps):
    image -= baseline
    return image * sum(gradient(baseline + share * image) for share in middles(steps)) / steps


def from_black(image, baseline, share):
    return share * image


INTEGRALS = {
    "Right but for the sign": integrated(middles, lambda image, baseline: baseline - image),
    "the sum over the steps": integrated(middles, mean=False),
    "no absolute value": lambda *given: integrated(middles)(*given).abs(),
    "multiplied by (image - baseline), pixel by pixel": integrated(middles, no_difference),
    "That is the sum of the gradients": integrated(middles, no_difference, mean=False),
    "not by the image alone": integrated(middles, the_image),
    "the gradient at the image alone": integrated(lambda steps: [1.0]),
    "That is gradient times image": integrated(lambda steps: [1.0], the_image),
    "the gradient at the baseline alone": integrated(lambda steps: [0.0]),
    "The path begins at the *baseline*": integrated(middles, at=from_black),
    "baseline + α·(image - baseline)": integrated(middles, the_image, at=from_black),
    "begins at the *baseline*": integrated(middles, at=lambda image, baseline, share: share * (image - baseline)),
    "ends beyond the image": integrated(middles, at=lambda image, baseline, share: baseline + share * image),
    "Counted from 0, the middle of step k": integrated(lambda steps: [(k - 0.5) / steps for k in range(steps)]),
    "the *first* points": integrated(lambda steps: [k / steps for k in range(steps)]),
    "the *last* points": integrated(lambda steps: [(k + 1) / steps for k in range(steps)]),
    "include both ends": integrated(lambda steps: [k / (steps - 1) for k in range(steps)]),
    "the trapezoid rule": trapezoid,
    "you asked for 50 gradients": integrated(lambda steps: middles(50)),
    "the right parts add up to": integrated(lambda steps: [(k + 0.25) / steps for k in range(steps)]),
    "has changed `image`": moved,
    "a row for each step": lambda gradient, image, baseline, steps: torch.zeros(steps, *image.shape),
    "a part of its own": lambda *given: integrated(middles)(*given).sum(),
    "`gradient` takes one image, (6, 9) here; it got (1, 6, 9)": lambda gradient, image, *_: gradient(image[None]),
    "it got float": lambda gradient, *_: gradient(0.5),
}


@pytest.mark.parametrize("hint", INTEGRALS)
def test_wrong_integrated_gradients_get_their_hint(capsys, hint):
    assert hint in verdict(capsys, check.integrated_gradients, INTEGRALS[hint])


def in_four_steps(gradient, image, baseline, steps):
    return integrated(lambda steps: middles(4))(gradient, image, baseline, steps)


def test_an_answer_for_four_steps_is_not_right(capsys):
    assert "steps=3, and you asked for 4 gradients" in verdict(capsys, check.integrated_gradients, in_four_steps)


def by_a_mixture(gradient, image, baseline, steps):
    shares = [(k - 0.5) / steps for k in range(1, steps + 1)]
    return (image - baseline) * torch.stack([gradient((1 - a) * baseline + a * image) for a in shares]).mean(dim=0)


def walking(gradient, image, baseline, steps):
    """From one middle to the next by the same step."""
    step = (image - baseline) / steps
    point, parts = baseline + step / 2, torch.zeros_like(image)
    for _ in range(steps):
        parts += step * gradient(point)
        point = point + step
    return parts


def twice_as_many_asked(gradient, image, baseline, steps):
    gradient(image), gradient(baseline)
    return walking(gradient, image, baseline, steps)


@pytest.mark.parametrize(
    "answer",
    [
        by_a_mixture,
        walking,
        twice_as_many_asked,
        integrated(middles),
        lambda *given: walking(*given).numpy(),
        lambda *given: walking(*given).tolist(),
        lambda *given: [row.double() for row in walking(*given)],
        lambda gradient, *given: walking(lambda x: gradient(x.double()), *given),
    ],
)
def test_other_ways_along_the_path_are_right_too(capsys, answer):
    assert verdict(capsys, check.integrated_gradients, answer).startswith("✓")


def test_the_solutions_parts_add_up_to_the_scores_change():
    g = torch.Generator().manual_seed(0)
    image, baseline, weight = (torch.randn(4, 5, generator=g) for _ in range(3))
    parts = SOLUTIONS["integrated_gradients"](lambda x: 3 * weight * x**2, image, baseline, 200)
    torch.testing.assert_close(parts, weight * (image**3 - baseline**3), atol=1e-3, rtol=1e-3)


# 4. Uphill.


def climb(step=None, change=lambda g: g / g.norm(), keep=lambda decay: 1 - decay, times=lambda steps: steps):
    """An answer with one part of its step changed; `step` is given x, the change at the rate, and what to keep."""

    def answer(gradient, start, steps, rate, decay):
        x = start.clone()
        for _ in range(times(steps)):
            moved = rate * change(gradient(x))
            x = step(x, moved, keep(decay)) if step else (keep(decay) * (x + moved)).clamp(0, 1)
        return x

    return answer


def at_the_start(gradient, start, *rest):
    return climb()(lambda x: gradient(start), start, *rest)


def without_the_rate(gradient, start, steps, rate, decay):
    return climb()(gradient, start, steps, 1.0, decay)


def clamped_at_the_end(*given):
    return climb(lambda x, moved, keep: keep * (x + moved))(*given).clamp(0, 1)


def in_its_place(gradient, start, steps, rate, decay):
    for _ in range(steps):
        g = gradient(start)
        start += rate * g / g.norm()
        start *= 1 - decay
        start.clamp_(0, 1)
    return start


CLIMBS = {
    "where you started": climb(times=lambda steps: 0),
    "goes downhill": climb(change=lambda g: -g / g.norm()),
    "Divide the gradient by its length": climb(change=lambda g: g),
    "the root of the sum of *all* its squares": climb(change=lambda g: g / g.norm(dim=1, keepdim=True)),
    "by its length": climb(change=lambda g: g / g.abs().max()),
    "`gradient.norm()`": climb(change=torch.sign),
    "the root of the sum": climb(change=lambda g: g / g.abs().sum()),
    "the sum of *all* its squares: `": climb(change=lambda g: g / g.square().sum()),
    "gradient by its length, the root": climb(change=lambda g: g / g.square().mean().sqrt()),
    "Divide the gradient by its length, ": climb(change=lambda g: g / torch.linalg.norm(g, 2)),
    "The decay is a share": lambda gradient, start, steps, rate, decay: climb(
        lambda x, moved, _: (x + moved - decay).clamp(0, 1)
    )(gradient, start, steps, rate, decay),
    "The rate is missing": without_the_rate,
    "The decay is missing": climb(keep=lambda decay: 1),
    "You keep the share `decay`": climb(keep=lambda decay: decay),
    "comes *after* the step": climb(lambda x, moved, keep: (keep * x + moved).clamp(0, 1)),
    "A pixel is from 0 to 1": climb(lambda x, moved, keep: keep * (x + moved)),
    "Clamp after *each* step": clamped_at_the_end,
    "Pixels above 1": climb(lambda x, moved, keep: (keep * (x + moved)).relu()),
    "First the decay, then the clamp": climb(lambda x, moved, keep: keep * (x + moved).clamp(0, 1)),
    "Take the gradient anew": at_the_start,
    "That is one step": climb(times=lambda steps: 1),
    "One step too few": climb(times=lambda steps: steps - 1),
    "One step too many": climb(times=lambda steps: steps + 1),
    "has changed `start`": in_its_place,
    "Those are 5 steps, and steps=3": climb(times=lambda steps: 5),
    "Your pixels are from": climb(lambda x, moved, keep: (keep * (x + moved)).clamp(-1, 1)),
    "Each step: x + rate": climb(lambda x, moved, keep: (keep * (x + moved / 2)).clamp(0, 1)),
    "`gradient` takes one image, (6, 9) here; it got (1, 6, 9)": lambda gradient, start, *_: gradient(start[None]),
}


@pytest.mark.parametrize("hint", CLIMBS)
def test_a_wrong_climb_gets_its_hint(capsys, hint):
    assert hint in verdict(capsys, check.ascend, CLIMBS[hint])


def by_recursion(gradient, start, steps, rate, decay):
    if steps == 0:
        return start
    g = gradient(start)
    moved = start + rate * F.normalize(g.flatten(), dim=0).view_as(g)
    return by_recursion(gradient, (moved * (1 - decay)).clip(0, 1), steps - 1, rate, decay)


def by_min_and_max(gradient, start, steps, rate, decay):
    x = start.clone()
    for _ in range(steps):
        g = gradient(x)
        x += rate * g / g.pow(2).sum().sqrt()
        x -= decay * x
        x = torch.minimum(torch.maximum(x, torch.zeros(())), torch.ones(()))
    return x


def in_numpy(gradient, start, steps, rate, decay):
    x = start.numpy().copy()
    for _ in range(steps):
        g = gradient(torch.from_numpy(x)).numpy()
        x = np.clip((1 - decay) * (x + rate * g / np.linalg.norm(g)), 0, 1)
    return x


def guarded(gradient, start, steps, rate, decay):
    """As the library does: the length is at least a tiny number."""
    return climb(change=lambda g: g / g.norm().clamp_min(1e-12))(gradient, start, steps, rate, decay)


@pytest.mark.parametrize(
    "answer",
    [
        climb(),
        by_recursion,
        by_min_and_max,
        in_numpy,
        guarded,
        lambda *given: climb()(*given).tolist(),
        lambda gradient, start, *given: climb()(gradient, start.double(), *given),
    ],
)
def test_other_ways_to_climb_are_right_too(capsys, answer):
    assert verdict(capsys, check.ascend, answer).startswith("✓")


# 5. The open task.


def largest(values, count=30):
    mask = torch.zeros(values.numel(), dtype=torch.bool)
    mask[values.flatten().topk(count).indices] = True
    return mask.view_as(values)


TASKS = {  # points, part of what is printed, answer
    "solution": (10, "enough: read right by these pixels alone: 10 of 10 digits", SOLUTIONS["explain"]),
    "integrated gradients": (
        8,
        "needed: no longer read right without these pixels: 8 of 10 digits",
        lambda net, image, label: largest(integrated_gradients(net, image, label).values),
    ),
    "bright pixels": (
        6,
        "needed: no longer read right without these pixels: 3 of",
        lambda net, image, _: largest(image),
    ),
    "an array of 0 and 1": (6, "● 6 of 10 points", lambda net, image, _: largest(image).float().numpy()),
    "saliency": (2, "enough: read right by these pixels alone: 1 of 10", lambda *given: largest(saliency(*given))),
    "nothing": (0, "the most were 0 pixels", lambda net, image, label: torch.zeros_like(image)),
    "all pixels": (0, "the most were 784 pixels", lambda net, image, label: torch.ones_like(image, dtype=torch.bool)),
    "one pixel too many": (0, "31 pixels of 30", lambda net, image, _: largest(image, 31)),
    "too many questions": (
        0,
        "101 images of 100",
        lambda net, image, label: net(image.expand(101, 28, 28)) is not None and largest(image),
    ),
    "values": (0, "True or False: yours has other values", lambda net, image, label: image),
    "places": (0, "a mask with a value for each pixel", lambda net, image, label: [(1, 2), (3, 4)]),
    "one image": (0, "`net` takes a batch of images, such as `image[None]`; it got (28, 28)", lambda net, x, _: net(x)),
    "stub": (0, "○ Not answered yet", lambda net, image, label: ...),
}


@pytest.mark.parametrize("name", TASKS)
def test_pixels_that_explain_get_points_for_being_enough_and_needed(capsys, name):
    expected, words, answer = TASKS[name]
    given, printed = points(capsys, check.explain, answer)
    assert given == expected
    assert words in printed

"""Solutions to the exercises of notebook 06, each with a line of why. Try first: the checks give hints."""

import torch

# 1. Occlusion. A copy of the image for each place, all of a row of places in one batch; the net is only asked.


def occlude(score, image, size):
    high, wide = (length - size + 1 for length in image.shape)
    lost = torch.zeros(high, wide)
    for r in range(high):
        batch = image.repeat(wide, 1, 1)
        for c in range(wide):
            batch[c, r : r + size, c : c + size] = 0
        lost[r] = score(image[None]) - score(batch).detach()
    return lost


# 2. Saliency. The logit before the softmax: a probability falls as well when another class rises. `grad` asks for the
#    pixels alone, so that no .grad of the net's own is filled.


def saliency(net, image, label):
    pixels = image.clone().requires_grad_()
    (slope,) = torch.autograd.grad(net(pixels[None])[0, label], pixels)
    return slope.abs()


# 3. Integrated gradients. A gradient says what the *next* bit of change does; added up along the way from the baseline
#    they say what all of it did. The middle of a step stands for the whole step better than either end.


def integrated_gradients(gradient, image, baseline, steps):
    total = torch.zeros_like(image)
    for k in range(1, steps + 1):
        total += gradient(baseline + (k - 0.5) / steps * (image - baseline))
    return (image - baseline) * total / steps


# 4. Activation maximisation. The length of a gradient says little about how far to go; so every step is equally long.


def ascend(gradient, start, steps, rate, decay):
    x = start
    for _ in range(steps):
        g = gradient(x)
        x = ((1 - decay) * (x + rate * g / g.norm())).clamp(0, 1)
    return x


# 5. Explain with thirty pixels (10 of 10 points). Integrated gradients of the whole digit often leave out what would be
#    enough. So ask both questions again and again as the mask grows: which pixel would help the kept ones most, and
#    which would the rest miss most? Two images a step make sixty in all. Saliency alone fails: its largest pixels are
#    black, and keeping or blackening a black pixel changes nothing; hence the factor `image`.


def explain(net, image, label):
    mask = torch.zeros_like(image, dtype=torch.bool)
    for _ in range(30):
        pair = torch.stack([image * mask, image * ~mask]).requires_grad_()
        log_p = net(pair).log_softmax(1)[:, label]
        (slopes,) = torch.autograd.grad(log_p.sum(), pair)
        gain = (image * slopes.sum(0)).masked_fill(mask, -torch.inf)
        mask.flatten()[gain.argmax()] = True
    return mask

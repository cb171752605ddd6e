"""Solutions to the exercises of notebook 00, each with a line of why. Try first: the checks give hints."""

import torch

# 1. The mean three. A mask picks the images; dim=0 is the dimension that counts images.


def mean_image(images, labels):
    return images[labels == 3].mean(0)


# 2. The nearest mean. cdist gives the distance of each digit to each mean, argmin the number of the nearest one.


def accuracy(means, images, labels):
    distance = torch.cdist(images.flatten(1), means.flatten(1))
    return (distance.argmin(1) == labels).float().mean()


# 3. Binarising by sampling. A uniform random number is below p with probability p.


def sample(images, generator):
    return (torch.rand(images.shape, generator=generator) < images).float()


# Open task. First k-means: three groups a class, found by sending each image to the nearest of three means and then
# computing the means anew. So a group is a way of writing: slanted, upright, thin. Then LVQ (learning vector
# quantisation): the nearest prototype moves a little towards a digit of its own class, and away from one of another.
# k-means asks what is typical; LVQ moves the borders between the classes, and nearest prototypes err at borders. The
# validation digits play no part in it: they tell how well it does for digits that it has not seen.


def prototypes(images, labels):
    generator = torch.Generator().manual_seed(0)
    x, groups = images.flatten(1), []
    for digit in range(10):
        own = x[labels == digit]
        means = own[torch.randperm(len(own), generator=generator)[:3]]
        for _ in range(10):
            nearest = torch.cdist(own, means).argmin(1)
            means = torch.stack([own[nearest == group].mean(0) for group in range(3)])
        groups.append(means)
    found, classes = torch.cat(groups), torch.arange(10).repeat_interleave(3)
    for _ in range(3):
        for batch in torch.randperm(len(x), generator=generator).split(20):
            nearest = torch.cdist(x[batch], found).argmin(1)
            towards = torch.where(classes[nearest] == labels[batch], 0.02, -0.02)
            found.index_add_(0, nearest, towards[:, None] * (x[batch] - found[nearest]))
    return found.view(-1, 28, 28), classes

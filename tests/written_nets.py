"""Nets as people write them, each with a forward of its own, and the learners that two kinds of output need."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from dlkit.data import Batch
from dlkit.training import Backprop


class UNet(nn.Module):
    """Skips that are concatenated, transposed convolutions, and the mean of each map at the end."""

    def __init__(self, maps: int = 8):
        super().__init__()
        self.down1, self.down2 = self.block(1, maps), self.block(maps, 2 * maps)
        self.middle = self.block(2 * maps, 4 * maps)
        self.up2, self.join2 = nn.ConvTranspose2d(4 * maps, 2 * maps, 2, stride=2), self.block(4 * maps, 2 * maps)
        self.up1, self.join1 = nn.ConvTranspose2d(2 * maps, maps, 2, stride=2), self.block(2 * maps, maps)
        self.out, self.classes = nn.Conv2d(maps, 4, 1), nn.Linear(4, 10)

    def block(self, inputs: int, maps: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(inputs, maps, 3, padding=1), nn.BatchNorm2d(maps), nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        first = self.down1(x)
        second = self.down2(F.max_pool2d(first, 2))
        y = self.middle(F.max_pool2d(second, 2))
        y = self.join2(torch.cat([self.up2(y), second], 1))
        y = self.join1(torch.cat([self.up1(y), first], 1))
        return self.classes(self.out(y).mean((2, 3)))


class LSTMClassifier(nn.Module):
    """An image is a sequence of its rows. `batch_first=False` is the usual slip: rows are then taken for images."""

    def __init__(self, layers: int = 1, dropout: float = 0.0, batch_first: bool = True):
        super().__init__()
        self.lstm = nn.LSTM(28, 32, num_layers=layers, batch_first=batch_first, dropout=dropout)
        self.classes = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.lstm(x.squeeze(1))
        return self.classes(states[:, -1])


class MixerBlock(nn.Module):
    def __init__(self, patches: int, width: int):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.across = nn.Sequential(nn.Linear(patches, 2 * patches), nn.GELU(), nn.Linear(2 * patches, patches))
        self.within = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.across(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.within(self.norm2(x))


class Mixer(nn.Module):
    """Source: Tolstikhin et al. 2021, MLP-Mixer: an all-MLP architecture for vision, §2."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(1, 32, 7, stride=7)
        self.blocks = nn.Sequential(*[MixerBlock(16, 32) for _ in range(2)])
        self.norm, self.classes = nn.LayerNorm(32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        return self.classes(self.norm(self.blocks(x)).mean(1))


class ConvAutoencoder(nn.Module):
    """Down by strides, and up again by transposed convolutions."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU()
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(16, 8, 3, 2, 1, 1), nn.ReLU(), nn.ConvTranspose2d(8, 1, 3, 2, 1, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x))


class VAE(nn.Module):
    """Gives logits of pixels, means and log-variances of the code. `noise=0` leaves its draws without effect."""

    def __init__(self, noise: float = 1.0):
        super().__init__()
        self.noise = noise
        self.encoder = nn.Sequential(nn.Linear(784, 64), nn.ReLU())
        self.mean, self.log_variance = nn.Linear(64, 8), nn.Linear(64, 8)
        self.decoder = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 784))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hidden = self.encoder(x.flatten(1))
        mean, log_variance = self.mean(hidden), self.log_variance(hidden)
        code = mean + self.noise * torch.randn_like(mean) * (0.5 * log_variance).exp()
        return self.decoder(code), mean, log_variance


class EvidenceBound(Backprop):
    """-ELBO, in nats an image. Source: Kingma, Welling 2014, Auto-encoding variational Bayes, equation 10."""

    def loss(self, output: tuple[Tensor, Tensor, Tensor], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        pixels, mean, log_variance = output
        x = batch.images.flatten(1)
        likelihood = F.binary_cross_entropy_with_logits(pixels, x, reduction="sum")
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum()
        loss = (likelihood + divergence) / len(x)
        return loss, {"loss": loss}


class SeveralOutputs(Backprop):
    """The cross-entropy of a net's last logits, and 0.3 of that of its auxiliary ones, as GoogLeNet has them.

    Source: Szegedy et al. 2014, Going deeper with convolutions, §5.
    """

    def loss(self, output: tuple[Tensor, ...], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        logits, *auxiliary = output
        loss = F.cross_entropy(logits, batch.labels)
        for other in auxiliary:
            loss = loss + 0.3 * F.cross_entropy(other, batch.labels)
        return loss, {"loss": loss}


class Encoder(nn.Module):
    """nn.TransformerEncoder over the rows of an image, with its usual dropout."""

    def __init__(self, dropout: float = 0.1):
        super().__init__()
        self.embedding, self.places = nn.Linear(28, 32), nn.Parameter(torch.zeros(28, 32))
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=dropout, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.classes = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.classes(self.encoder(self.embedding(x.squeeze(1)) + self.places).mean(1))


class NormedWeights(nn.Module):
    """Weights that are computed from others: by weight_norm, and by spectral_norm, which keeps a buffer."""

    def __init__(self):
        super().__init__()
        self.first = parametrizations.weight_norm(nn.Conv2d(1, 8, 3, padding=1))
        self.second = parametrizations.spectral_norm(nn.Conv2d(8, 8, 3, padding=1))
        self.classes = parametrizations.weight_norm(nn.Linear(8 * 49, 10))

    def forward(self, x: Tensor) -> Tensor:
        maps = F.relu(self.second(F.relu(self.first(x))))
        return self.classes(F.max_pool2d(maps, 4).flatten(1))


class TwoInputs(nn.Module):
    """Two inputs made from one image: the whole, and its middle."""

    def __init__(self):
        super().__init__()
        self.whole, self.middle, self.classes = nn.Conv2d(1, 8, 5, 2), nn.Conv2d(1, 8, 3), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        maps = F.relu(self.whole(x)), F.relu(self.middle(x[:, :, 7:21, 7:21]))
        return self.classes(torch.cat([one.mean((2, 3)) for one in maps], 1))


class Attention(nn.Module):
    """nn.MultiheadAttention over the rows of an image."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Linear(28, 32)
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        self.classes = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.embedding(x.squeeze(1))
        read, _ = self.attention(rows, rows, rows, need_weights=False)
        return self.classes((rows + read).mean(1))


class Residual(nn.Module):
    def __init__(self, maps: int):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(maps, maps, 3, padding=1), nn.Conv2d(maps, maps, 3, padding=1)
        self.norm = nn.GroupNorm(2, maps)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.conv2(torch.relu(self.norm(self.conv1(x)))))


class SmallResNet(nn.Module):
    """Asks how many dimensions its images have."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, stride=2, padding=1)
        self.block1, self.block2, self.classes = Residual(8), Residual(8), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == 3:
            x = x[:, None]
        return self.classes(self.block2(self.block1(self.stem(x))).mean((2, 3)))


class BatchNormDropout(nn.Module):
    """A Sequential inside of a net that asks for its images' dimensions."""

    def __init__(self, dropout: float = 0.2):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
            nn.Dropout(dropout), nn.Linear(8 * 14 * 14, 10),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x[:, None] if x.ndim == 3 else x)


class PatchTransformer(nn.Module):
    """Patches cut by reshape and permute, and one nn.TransformerEncoderLayer."""

    def __init__(self):
        super().__init__()
        self.embedding, self.places = nn.Linear(49, 32), nn.Parameter(torch.zeros(16, 32))
        self.layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
        self.classes = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        patches = x.reshape(-1, 4, 7, 4, 7).permute(0, 1, 3, 2, 4).reshape(-1, 16, 49)
        return self.classes(self.layer(self.embedding(patches) + self.places).mean(1))


class UnusedLayer(nn.Module):
    """A net of two layers, and one that no image passes."""

    def __init__(self):
        super().__init__()
        self.hidden, self.classes, self.unused = nn.Linear(784, 64), nn.Linear(64, 10), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.classes(torch.relu(self.hidden(x.flatten(1))))

"""Synthetic speech-like tones as spectrogram images: time to the right, frequency upwards."""

import math

import torch

from dlkit.data.images import Split

NAMES = ("level", "rising", "dipping", "falling")
RATE, FRAMES, WINDOW = 8_000, 28, 256  # Hz; pictures of 28 x 28; samples
SECONDS = 0.5


def tones(count: int, *, seed: int = 0, noise: float = 0.1) -> Split:
    """`count` spectrograms (count, 28, 28) in [0, 1]; the label is the index of the tone in NAMES.

    Each tone has a random voice: a pitch of 100 to 220 Hz that moves by 25 % to 50 %, eight harmonics of random
    strength, and white noise of standard deviation `noise`. A row is 31 Hz, from 0 at the bottom to 844 Hz; a column is
    18 ms. ValueError for count below 1 or negative noise.
    """
    if count < 1 or noise < 0:
        raise ValueError(f"{count} tones with noise {noise}: at least 1 tone, and noise of 0 or more.")
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float, columns: int = 1) -> torch.Tensor:
        return low + (high - low) * torch.rand(count, columns, generator=generator)

    labels = torch.randint(len(NAMES), (count,), generator=generator)
    time = torch.linspace(0, 1, int(RATE * SECONDS))
    shapes = torch.stack([0 * time, time - 0.5, (2 * time - 1) ** 2 - 0.5, 0.5 - time])
    pitch = uniform(100, 220) * (1 + uniform(0.25, 0.5) * shapes[labels])
    phase = 2 * math.pi * pitch.cumsum(1) / RATE
    strength, starts = uniform(0.3, 1.0, 8), uniform(0, 2 * math.pi, 8)
    harmonics = (strength[:, k - 1, None] / k * (k * phase + starts[:, k - 1, None]).sin() for k in range(1, 9))
    voice = sum(harmonics, torch.zeros_like(phase)) * (math.pi * time).sin()
    signal = voice + noise * torch.randn(voice.shape, generator=generator)
    hop = signal.shape[1] // (FRAMES - 1)
    spectrum = torch.stft(signal, WINDOW, hop, window=torch.hann_window(WINDOW), return_complex=True).abs()
    images = spectrum[:, :FRAMES, :FRAMES].log1p().flip(1)
    return Split(images / images.amax((1, 2), keepdim=True), labels)

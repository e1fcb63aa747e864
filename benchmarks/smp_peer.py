"""segmentation-models-pytorch's Unet with a VGG16-bn encoder, trained by PyTorch: the other side of train_peer.py.

    python benchmarks/smp_peer.py --precision bfloat16 < FEED

No pretrained weights. Its batches come from train_feed.py. Needs the extra `bench`. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import sys

import segmentation_models_pytorch as smp
import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode
from train_feed import Header, Images, Labels, Logits, follow

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class Smp:
    """The peer: AdamW, the loss ce+dice of tileseg written with PyTorch's operations."""

    def __init__(self, header: Header, precision: str) -> None:
        torch.manual_seed(1)
        self.classes = len(header.classes)
        network = smp.Unet("vgg16_bn", encoder_weights=None, in_channels=header.bands, classes=self.classes)
        self.network: nn.Module = network.to(DEVICE, memory_format=torch.channels_last)
        self.parameters = sum(p.numel() for p in network.parameters() if p.requires_grad)
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            self.network.eval()(torch.zeros(1, header.bands, 64, 64, device=DEVICE))
        self.flops_per_pixel = counter.get_total_flops() / 64**2
        kernels = [p for p in network.parameters() if p.ndim > 1]
        others = [p for p in network.parameters() if p.ndim <= 1]
        # Betas and epsilon are those of Keras.
        groups = [{"params": kernels, "weight_decay": header.weight_decay}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.999), eps=1e-7)
        self.clip = header.clip
        self.bfloat16 = precision == "bfloat16"
        self.mean, self.std = (torch.tensor(v, device=DEVICE).view(1, -1, 1, 1) for v in (header.mean, header.std))

    def logits(self, images: Images) -> torch.Tensor:
        """(n, class, y, x) float32."""
        x = torch.from_numpy(images).to(DEVICE).permute(0, 3, 1, 2)
        x = ((x - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        with torch.autocast(DEVICE, torch.bfloat16, enabled=self.bfloat16):
            out: torch.Tensor = self.network(x)
        return out.float()

    def criterion(self, labels: Labels, logits: torch.Tensor) -> torch.Tensor:
        """Cross-entropy plus Dice, as tileseg.train.terms has them."""
        truth = torch.from_numpy(labels).to(logits.device).long()
        entropy = functional.cross_entropy(logits, truth, ignore_index=255)
        known = truth != 255
        one_hot = functional.one_hot(torch.where(known, truth, 0), self.classes).permute(0, 3, 1, 2) * known[:, None]
        chance = logits.softmax(dim=1) * known[:, None]
        over = (0, 2, 3)
        true = one_hot.sum(over)
        dice = ((chance * one_hot).sum(over) + 0.5) / (0.5 * chance.sum(over) + 0.5 * true + 0.5)
        present = (true > 0).float()
        return entropy + ((1 - dice) * present).sum() / present.sum()

    def loss(self, labels: Labels, logits: Logits) -> float:
        """The loss of given logits."""
        return float(self.criterion(labels, torch.from_numpy(logits).permute(0, 3, 1, 2)))

    def step(self, images: Images, labels: Labels, rate: float) -> float:
        """Learn from a batch; its loss."""
        self.network.train()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.criterion(labels, self.logits(images))
        loss.backward()
        if self.clip:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.clip)
        self.optimizer.step()
        return float(loss.detach())

    def labels_of(self, images: Images) -> Labels:
        """The labels that the network gives images."""
        self.network.eval()
        with torch.inference_mode():
            found: Labels = self.logits(images).argmax(dim=1).to(torch.uint8).cpu().numpy()
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    precision = parser.parse_args().precision
    torch.set_num_threads(os.cpu_count() or 1)
    print(json.dumps(follow(lambda header: Smp(header, precision), sys.stdin.buffer)))


if __name__ == "__main__":
    main()

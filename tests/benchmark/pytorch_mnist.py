# SPDX-License-Identifier: Apache-2.0
"""The network of cnn_mnist.py in PyTorch, in the form of PyTorch's own example.

Its log has the lines of TensorFlow's that compare.py reads.

  python tests/benchmark/pytorch_mnist.py --data_dir=MNIST-data
      [--channels_last] [--bfloat16]
"""
import argparse

import torch
from torch import nn
from torch.nn import functional

import mnist_data


class Net(nn.Module):
  """Takes float32 [batch, 1, 28, 28] in [0, 1]; returns logits [batch, 10]."""

  def __init__(self):
    super().__init__()
    self.conv1 = nn.Conv2d(1, 32, 5, padding=2)
    self.conv2 = nn.Conv2d(32, 64, 5, padding=2)
    self.fc1 = nn.Linear(7 * 7 * 64, 1024)
    self.dropout = nn.Dropout(0.4)
    self.fc2 = nn.Linear(1024, 10)

  def forward(self, x):
    x = functional.max_pool2d(functional.relu(self.conv1(x)), 2)
    x = functional.max_pool2d(functional.relu(self.conv2(x)), 2)
    x = functional.relu(self.fc1(torch.flatten(x, 1)))
    return self.fc2(self.dropout(x))


def make_tensors(args, data, labels):
  """Returns the images, float32 [N, 1, 28, 28], and the labels, int64 [N]."""
  images = torch.tensor(data)
  if args.channels_last:  # With one channel, only the strides differ.
    images = images.view(-1, 28, 28, 1).permute(0, 3, 1, 2)
  else:
    images = images.view(-1, 1, 28, 28)
  return images, torch.tensor(labels).long()


def autocast(args):
  """Returns a context in which --bfloat16 multiplies in bfloat16."""
  return torch.autocast("cpu", torch.bfloat16, enabled=args.bfloat16)


def train(args, model, optimizer, images, labels):
  """Trains on batches of images; each image comes once in an epoch."""
  model.train()
  batches_per_epoch = len(images) // args.batch_size
  for step in range(args.train_steps):
    if step % batches_per_epoch == 0:
      batches = torch.randperm(len(images)).split(args.batch_size)
    batch = batches[step % batches_per_epoch]
    optimizer.zero_grad()
    with autocast(args):
      logits = model(images[batch])
      loss = functional.cross_entropy(logits, labels[batch])
    loss.backward()
    optimizer.step()
    if step % 50 == 0:
      print(logits.softmax(1))
      print("loss = %g, step = %d" % (loss.item(), step + 1), flush=True)
  # Nothing is saved: TensorFlow's log has this line when a training ends.
  print("Saving checkpoints for %d " % args.train_steps, flush=True)


def test(args, model, images, labels):
  """Prints the accuracy."""
  model.eval()
  with torch.no_grad(), autocast(args):
    classes = torch.cat([model(x).argmax(1) for x in images.split(100)])
  print({"accuracy": (classes == labels).float().mean().item()}, flush=True)


def main():
  """Trains the network and tests it."""
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
  parser.add_argument("--data_dir", default="MNIST-data")
  parser.add_argument("--train_steps", type=int, default=20000)
  parser.add_argument("--learning_rate", type=float, default=0.001)
  parser.add_argument("--batch_size", type=int, default=100)
  parser.add_argument("--channels_last", action="store_true")
  parser.add_argument("--bfloat16", action="store_true")
  args = parser.parse_args()

  train_split, test_split = mnist_data.load_mnist(args.data_dir)
  model = Net()
  if args.channels_last:
    model = model.to(memory_format=torch.channels_last)
  optimizer = torch.optim.SGD(model.parameters(), lr=args.learning_rate)
  train(args, model, optimizer, *make_tensors(args, *train_split))
  test(args, model, *make_tensors(args, *test_split))


if __name__ == "__main__":
  main()

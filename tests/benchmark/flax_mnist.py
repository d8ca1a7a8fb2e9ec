# SPDX-License-Identifier: Apache-2.0
"""The network of cnn_mnist.py in JAX, with flax.linen and optax.

Its log has the lines of TensorFlow's that compare.py reads.

  python tests/benchmark/flax_mnist.py --data_dir=MNIST-data [--dtype=bfloat16]
"""
import argparse
import functools

from flax import linen as nn
from flax.training import train_state
import jax
import jax.numpy as jnp
import numpy as np
import optax

import mnist_data

BATCH_SIZE = 100


class CNN(nn.Module):
  """Takes float32 [batch, 28, 28, 1] in [0, 1]; returns float32 [batch, 10]."""
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x, training):
    for filters in 32, 64:
      x = nn.relu(nn.Conv(filters, (5, 5), dtype=self.dtype)(x))
      x = nn.max_pool(x, (2, 2), (2, 2))
    x = x.reshape(len(x), -1)
    x = nn.relu(nn.Dense(1024, dtype=self.dtype)(x))
    x = nn.Dropout(0.4, deterministic=not training)(x)
    return nn.Dense(10, dtype=self.dtype)(x).astype(jnp.float32)


def create_train_state(dtype):
  """Returns the state of a new network and its optimizer."""
  model = CNN(dtype)
  params = model.init(jax.random.key(0), jnp.zeros([1, 28, 28, 1]), False)
  return train_state.TrainState.create(
      apply_fn=model.apply, params=params["params"], tx=optax.sgd(0.001))


@functools.partial(jax.jit, donate_argnums=0)
def train_step(state, images, labels):
  """Returns the state after a step, and the batch's loss and logits."""
  def loss_fn(params):
    dropout_key = jax.random.fold_in(jax.random.key(1), state.step)
    logits = state.apply_fn({"params": params}, images, True,
                            rngs={"dropout": dropout_key})
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses.mean(), logits

  (loss, logits), grads = jax.value_and_grad(loss_fn, has_aux=True)(
      state.params)
  return state.apply_gradients(grads=grads), loss, logits


@jax.jit
def predict(state, images):
  """Returns the classes, int32 [batch] in 0..9."""
  return state.apply_fn({"params": state.params}, images, False).argmax(1)


def train(state, images, labels, steps):
  """Trains on batches that are drawn at random; returns the state."""
  for step in range(-5, steps):  # Those below 0 compile, and aren't timed.
    batch = np.random.randint(len(images), size=BATCH_SIZE)
    state, loss, logits = train_step(state, images[batch], labels[batch])
    if step % 50 == 0:
      print(jax.nn.softmax(logits))
      print("loss = %g, step = %d" % (loss, step + 1), flush=True)
  jax.block_until_ready(state)
  # Nothing is saved: TensorFlow's log has this line when a training ends.
  print("Saving checkpoints for %d " % steps, flush=True)
  return state


def test(state, images, labels):
  """Prints the accuracy."""
  classes = np.concatenate([
      predict(state, images[start:start + BATCH_SIZE])
      for start in range(0, len(images), BATCH_SIZE)])
  print({"accuracy": float(np.mean(classes == labels))}, flush=True)


def main():
  """Trains the network and tests it."""
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
  parser.add_argument("--data_dir", default="MNIST-data")
  parser.add_argument("--train_steps", type=int, default=20000)
  parser.add_argument("--dtype", choices=["float32", "bfloat16"],
                      default="float32")
  args = parser.parse_args()

  ((train_data, train_labels),
   (test_data, test_labels)) = mnist_data.load_mnist(args.data_dir)
  state = create_train_state(jnp.dtype(args.dtype))
  state = train(state, train_data.reshape(-1, 28, 28, 1), train_labels,
                args.train_steps)
  test(state, test_data.reshape(-1, 28, 28, 1), test_labels)


if __name__ == "__main__":
  main()

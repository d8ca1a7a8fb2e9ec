# SPDX-License-Identifier: Apache-2.0
# Copyright 2016 The TensorFlow Authors. All Rights Reserved.
#
# This follows tensorflow/examples/tutorials/layers/cnn_mnist.py of TensorFlow
# 1.15. Changed: the flags, a loop over the two convolutions, the comments, and
# the loader where TensorFlow 2 lacks the tutorial's.
"""The program of "A Guide to TF Layers": what cnn_mnist.py is compared with.

It has the tutorial's own graph and loop, and leaves all settings at
TensorFlow's defaults. It runs on TensorFlow 1.15 and, through the API of
version 1, on TensorFlow 2 up to 2.15; later versions have no Estimator. All
flags default to what the tutorial does.

  python tests/benchmark/tutorial.py --data_dir=MNIST-data
"""
import numpy as np
import tensorflow as tf

import mnist_data

if tf.__version__.startswith("2."):
  tf = tf.compat.v1
  tf.disable_v2_behavior()

tf.logging.set_verbosity(tf.logging.INFO)

tf.flags.DEFINE_string("data_dir", "MNIST-data", "Directory of MNIST's files.")
tf.flags.DEFINE_string("model_dir", "/tmp/mnist_convnet_model",
                       "Directory of the checkpoints.")
tf.flags.DEFINE_integer("train_steps", 20000, "Steps to train.")
tf.flags.DEFINE_integer("save_checkpoints_steps", None,
                        "Save a checkpoint every this many steps, instead of "
                        "every 10 minutes.")
FLAGS = tf.flags.FLAGS


def cnn_model_fn(features, labels, mode):
  """Model function for CNN.

  Args:
    features: dict, "x": float32 [batch, 784] in [0, 1].
    labels: int32 [batch] in 0..9, or None in PREDICT.
    mode: a tf.estimator.ModeKeys.

  Returns:
    tf.estimator.EstimatorSpec for the mode.
  """
  net = tf.reshape(features["x"], [-1, 28, 28, 1])
  for filters in 32, 64:
    net = tf.layers.conv2d(inputs=net, filters=filters, kernel_size=[5, 5],
                           padding="same", activation=tf.nn.relu)
    net = tf.layers.max_pooling2d(inputs=net, pool_size=[2, 2], strides=2)
  net = tf.reshape(net, [-1, 7 * 7 * 64])
  net = tf.layers.dense(inputs=net, units=1024, activation=tf.nn.relu)
  net = tf.layers.dropout(inputs=net, rate=0.4,
                          training=mode == tf.estimator.ModeKeys.TRAIN)
  logits = tf.layers.dense(inputs=net, units=10)

  predictions = {"classes": tf.argmax(input=logits, axis=1),
                 "probabilities": tf.nn.softmax(logits, name="softmax_tensor")}
  if mode == tf.estimator.ModeKeys.PREDICT:
    return tf.estimator.EstimatorSpec(mode=mode, predictions=predictions)

  loss = tf.losses.sparse_softmax_cross_entropy(labels=labels, logits=logits)
  if mode == tf.estimator.ModeKeys.TRAIN:
    optimizer = tf.train.GradientDescentOptimizer(learning_rate=0.001)
    train_op = optimizer.minimize(
        loss=loss, global_step=tf.train.get_global_step())
    return tf.estimator.EstimatorSpec(mode=mode, loss=loss, train_op=train_op)

  eval_metric_ops = {"accuracy": tf.metrics.accuracy(
      labels=labels, predictions=predictions["classes"])}
  return tf.estimator.EstimatorSpec(
      mode=mode, loss=loss, eval_metric_ops=eval_metric_ops)


def load_mnist(data_dir):
  """Loads MNIST with the tutorial's loader, which TensorFlow 2 doesn't have.

  Returns (train_data, train_labels), (eval_data, eval_labels): data float32
  [N, 784] in [0, 1], labels int32 [N] in 0..9, of N = 55,000 and N = 10,000.
  """
  if not hasattr(tf, "contrib"):
    return mnist_data.load_mnist(data_dir)
  mnist = tf.contrib.learn.datasets.mnist.load_mnist(data_dir)
  return [(split.images, np.asarray(split.labels, dtype=np.int32))
          for split in (mnist.train, mnist.test)]


def main(unused_argv):
  """Trains the network, evaluates it, and prints the results."""
  (train_data, train_labels), (eval_data, eval_labels) = load_mnist(
      FLAGS.data_dir)
  config = None
  if FLAGS.save_checkpoints_steps:
    config = tf.estimator.RunConfig(
        save_checkpoints_steps=FLAGS.save_checkpoints_steps)
  mnist_classifier = tf.estimator.Estimator(
      model_fn=cnn_model_fn, model_dir=FLAGS.model_dir, config=config)
  logging_hook = tf.train.LoggingTensorHook(
      tensors={"probabilities": "softmax_tensor"}, every_n_iter=50)

  train_input_fn = tf.estimator.inputs.numpy_input_fn(
      x={"x": train_data}, y=train_labels, batch_size=100, num_epochs=None,
      shuffle=True)
  mnist_classifier.train(
      input_fn=train_input_fn, steps=FLAGS.train_steps, hooks=[logging_hook])

  eval_input_fn = tf.estimator.inputs.numpy_input_fn(
      x={"x": eval_data}, y=eval_labels, num_epochs=1, shuffle=False)
  print(mnist_classifier.evaluate(input_fn=eval_input_fn))


if __name__ == "__main__":
  tf.app.run()

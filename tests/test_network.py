# SPDX-License-Identifier: Apache-2.0
"""The network: shapes, names, dropout, and its training step by step."""
import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import cnn_mnist
from running import step_of, weights_of

ModeKeys = tf.estimator.ModeKeys
WEIGHTS = {
    "conv2d/kernel": (5, 5, 1, 32), "conv2d/bias": (32,),
    "conv2d_1/kernel": (5, 5, 32, 64), "conv2d_1/bias": (64,),
    "dense/kernel": (3136, 1024), "dense/bias": (1024,),
    "dense_1/kernel": (1024, 10), "dense_1/bias": (10,),
}


@pytest.fixture
def graph():
  with tf.Graph().as_default() as g:
    tf.set_random_seed(1)
    tf.train.create_global_step()
    yield g


def build(mode, shape=(784,)):
  """Returns (features, labels, spec); images and labels are random ones."""
  rng = np.random.RandomState(0)
  images = rng.uniform(size=(6, *shape)).astype(np.float32)
  labels = rng.randint(10, size=6).astype(np.int32)
  spec = cnn_mnist.cnn_model_fn(
      {"x": tf.constant(images)},
      None if mode == ModeKeys.PREDICT else tf.constant(labels), mode)
  return images, labels, spec


def initialized_session():
  session = tf.Session()
  session.run([tf.global_variables_initializer(),
               tf.local_variables_initializer()])
  return session


@pytest.mark.usefixtures("graph")
@pytest.mark.parametrize("shape", [(784,), (28, 28), (28, 28, 1)])
def test_predict_spec(shape):
  _, _, spec = build(ModeKeys.PREDICT, shape=shape)
  assert set(spec.predictions) == {"classes", "probabilities"}
  assert spec.predictions["classes"].dtype == tf.int64
  assert spec.predictions["probabilities"].dtype == tf.float32
  assert spec.loss is None and spec.train_op is None
  assert not spec.eval_metric_ops
  with initialized_session() as session:
    values = session.run(spec.predictions)
  assert values["classes"].shape == (6,)
  assert values["probabilities"].shape == (6, 10)
  np.testing.assert_allclose(values["probabilities"].sum(axis=1), 1, rtol=1e-5)
  np.testing.assert_array_equal(values["probabilities"].argmax(axis=1),
                                values["classes"])


@pytest.mark.usefixtures("graph")
def test_eval_spec():
  _, labels, spec = build(ModeKeys.EVAL)
  assert spec.loss.shape == () and spec.loss.dtype == tf.float32
  assert spec.train_op is None
  assert set(spec.eval_metric_ops) == {"accuracy"}
  value, update = spec.eval_metric_ops["accuracy"]
  assert value.dtype == tf.float32 and value.shape == ()
  with initialized_session() as session:
    session.run(update)
    probabilities = session.run("softmax_tensor:0")
    np.testing.assert_allclose(
        session.run(value), np.mean(probabilities.argmax(axis=1) == labels))
    # The loss is the mean cross-entropy.
    np.testing.assert_allclose(
        session.run(spec.loss),
        -np.log(probabilities[np.arange(6), labels]).mean(), rtol=1e-5)


@pytest.mark.parametrize("mode",
                         [ModeKeys.TRAIN, ModeKeys.EVAL, ModeKeys.PREDICT])
def test_weights_and_names(graph, mode):
  build(mode)
  weights = {v.op.name: tuple(v.shape.as_list())
             for v in tf.trainable_variables()}
  assert weights == WEIGHTS
  assert sum(np.prod(shape) for shape in weights.values()) == 3274634
  # A checkpoint holds these and the step, in each mode.
  assert {v.op.name for v in tf.global_variables()} == (
      set(WEIGHTS) | {"global_step"})
  softmax = graph.get_tensor_by_name("softmax_tensor:0")
  assert softmax.dtype == tf.float32 and softmax.shape[1] == 10


@pytest.mark.parametrize("mode", [ModeKeys.EVAL, ModeKeys.PREDICT])
def test_dropout_only_in_training(graph, mode):
  """The next test holds what it does in training."""
  build(mode)
  dropout = graph.get_operation_by_name("dense_1/MatMul").inputs[0]
  with initialized_session() as session:
    before, after = session.run(["dense/Relu:0", dropout])
  np.testing.assert_array_equal(after, before)


@pytest.mark.parametrize("params,rate", [
    ({}, 0.001), ({"learning_rate": 0.5}, 0.5)])
def test_weights_are_the_tutorials(digits_dir, tmp_path, params, rate):
  """With one seed, bit for bit those of the bare network; checkpoints swap.

  It is written here again, as the tutorial has it: the initial values depend
  on the operations that were made before them, and the first step's on all.
  """
  def bare_model_fn(features, labels, mode, params):
    del mode, params  # TRAIN, and the rate
    net = tf.reshape(features["x"], [-1, 28, 28, 1])
    net = tf.layers.conv2d(net, 32, [5, 5], padding="same",
                           activation=tf.nn.relu)
    net = tf.layers.max_pooling2d(net, [2, 2], 2)
    net = tf.layers.conv2d(net, 64, [5, 5], padding="same",
                           activation=tf.nn.relu)
    net = tf.layers.max_pooling2d(net, [2, 2], 2)
    net = tf.layers.dense(tf.reshape(net, [-1, 7 * 7 * 64]), 1024, tf.nn.relu)
    net = tf.layers.dense(tf.layers.dropout(net, 0.4, training=True), 10)
    loss = tf.losses.sparse_softmax_cross_entropy(labels, net)
    return tf.estimator.EstimatorSpec(
        tf.estimator.ModeKeys.TRAIN, loss=loss,
        train_op=tf.train.GradientDescentOptimizer(rate).minimize(
            loss, tf.train.get_global_step()))

  (images, labels), _ = cnn_mnist.load_mnist(digits_dir)
  input_fn = tf.estimator.inputs.numpy_input_fn(
      {"x": images}, labels, batch_size=10, num_epochs=None, shuffle=False)
  config = tf.estimator.RunConfig(tf_random_seed=7)
  found = []
  for model_fn, other in ((bare_model_fn, cnn_mnist.cnn_model_fn),
                          (cnn_mnist.cnn_model_fn, bare_model_fn)):
    model_dir = tmp_path / str(len(found))
    tf.estimator.Estimator(model_fn, str(model_dir), config, params).train(
        input_fn, steps=1)
    found.append([weights_of(model_dir / f"model.ckpt-{i}") for i in range(2)])
    # From what one wrote, the other resumes.
    tf.estimator.Estimator(other, str(model_dir), params=params).train(
        input_fn, steps=1)
    assert step_of(model_dir) == 2
  for bare, ours in zip(*found):
    for name in WEIGHTS:
      np.testing.assert_array_equal(bare[name], ours[name])

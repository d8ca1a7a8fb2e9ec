# The default has TensorFlow 1.15.5, CUDA 12.1 and Python 3.8, for GPUs from
# Pascal to Hopper. docs/deploy.md lists other images that fit, also with
# TensorFlow 2.
ARG TF_IMAGE=nvcr.io/nvidia/tensorflow:23.03-tf1-py3
FROM ${TF_IMAGE}

# Pillow and SciPy for --predict; dumb-init passes signals on. TensorFlow and
# numpy are the base image's, and SciPy must fit that numpy. From TensorFlow 2.16
# on, Estimator and its layers are packages of their own. (--no-deps: tf_keras
# would bring a second TensorFlow to an image that has "tensorflow-cpu".)
RUN NUMPY=$(python3 -c 'import numpy; print(numpy.__version__)') \
    && ESTIMATOR=$(python3 -c 'import tensorflow as tf; \
        minor = int(tf.__version__.split(".")[1]); \
        print(f"tensorflow-estimator~=2.15.0 tf_keras~=2.{minor}.0" * (minor > 15))') \
    && python3 -m pip install --no-cache-dir pillow scipy "numpy==$NUMPY" \
    && python3 -m pip install --no-cache-dir --no-deps dumb-init $ESTIMATOR
COPY cnn_mnist.py /app/

# For whatever --user it is run as: readable, also from a checkout with umask
# 077, and writable.
RUN chmod -R a+rX /app && mkdir /data /model && chmod 777 /data /model
VOLUME ["/data", "/model"]
WORKDIR /model

# In exec form, so that flags are passed on. As PID 1, Python would have no
# default actions for signals.
ENTRYPOINT ["dumb-init", "python3", "/app/cnn_mnist.py", "--data_dir=/data", "--model_dir=/model"]

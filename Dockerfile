# The default has TensorFlow 1.15.5, CUDA 12.1 and Python 3.8, for GPUs from
# Pascal to Hopper. docs/deploy.md lists other images that fit, also with
# TensorFlow 2.
ARG TF_IMAGE=nvcr.io/nvidia/tensorflow:23.03-tf1-py3
FROM ${TF_IMAGE}

# Pillow and SciPy for --predict; dumb-init passes signals on. TensorFlow and
# numpy are the base image's, and SciPy must fit that numpy. From TensorFlow 2.16
# on, Estimator is a package of its own.
RUN NUMPY=$(python3 -c 'import numpy; print(numpy.__version__)') \
    && python3 -m pip install --no-cache-dir pillow scipy dumb-init "numpy==$NUMPY" \
    && if ! python3 -c 'from importlib.util import find_spec; \
        assert find_spec("tensorflow_estimator")' 2> /dev/null; then \
      python3 -m pip install --no-cache-dir tensorflow-estimator==2.15.*; fi
COPY cnn_mnist.py /app/

# For whatever --user it is run as: readable, also from a checkout with umask
# 077, and writable.
RUN chmod -R a+rX /app && mkdir /data /model && chmod 777 /data /model
VOLUME ["/data", "/model"]
WORKDIR /model

# In exec form, so that flags are passed on. As PID 1, Python would have no
# default actions for signals.
ENTRYPOINT ["dumb-init", "python3", "/app/cnn_mnist.py", "--data_dir=/data", "--model_dir=/model"]

# By default NVIDIA's image with TensorFlow 1.15.5, CUDA 12.1 and Python 3.8,
# which could not be tried on a GPU here. docs/deploy.md lists other images that
# should work, also with TensorFlow 2.
ARG TF_IMAGE=nvcr.io/nvidia/tensorflow:23.03-tf1-py3
FROM ${TF_IMAGE}

# --predict needs Pillow and SciPy; dumb-init passes signals on. TensorFlow and
# NumPy stay the base image's, and pip picks a SciPy that works with that NumPy.
# From TensorFlow 2.16 on, Estimator is a package of its own.
RUN NUMPY=$(python3 -c 'import numpy; print(numpy.__version__)') \
    && python3 -m pip install --no-cache-dir "pillow>=8" scipy dumb-init "numpy==$NUMPY" \
    && if ! python3 -c 'from importlib.util import find_spec; \
        assert find_spec("tensorflow_estimator")' 2> /dev/null; then \
      python3 -m pip install --no-cache-dir tensorflow-estimator==2.15.*; fi
COPY cnn_mnist.py /app/

# Whatever --user runs it can read the script, even if the checkout was made with
# umask 077, and write to the volumes.
RUN chmod -R a+rX /app && mkdir /data /model && chmod 777 /data /model
VOLUME ["/data", "/model"]
WORKDIR /model

# The exec form passes flags on. As process 1, Python would ignore the signals
# that it has no handlers for: dumb-init takes that place.
ENTRYPOINT ["dumb-init", "python3", "/app/cnn_mnist.py", "--data_dir=/data", "--model_dir=/model"]

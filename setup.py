"""Package metadata. Nothing here imports torch or bit_backbone: building needs setuptools alone."""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent

DEMO = [
    "matplotlib>=3.9",
    "pycocotools>=2.0.8",
    "scikit-image>=0.24",
    "scikit-learn>=1.5",
    "tifffile>=2024.8.10",
]
FINETUNE = ["tensorboard>=2.17"]
EXTRACT = ["pyarrow>=17", "webdataset>=0.2.100"]
ONNX = ["onnx>=1.17", "onnxruntime>=1.20", "scikit-learn>=1.5"]
OPENVINO = ["onnx>=1.17", "openvino>=2025.0", "scikit-learn>=1.5"]
BENCH = [
    *ONNX,
    *OPENVINO,
    "onnxscript>=0.3",
    "matplotlib>=3.9",
    "timm>=1.0.31",
    "transformers>=5.23",
]
APP = ["gradio>=6.31", "pycocotools>=2.0.8", "scikit-learn>=1.5"]
DOCS = ["mkdocs-material>=9.6", "mkdocstrings-python>=2.0"]
TEST = [
    *DEMO,
    *FINETUNE,
    *EXTRACT,
    *ONNX,
    *OPENVINO,
    *BENCH,
    *APP,
    "build>=1.2",
    "faster-coco-eval>=1.6",
    "fvcore>=0.1.5.post20221221",
    "hypothesis>=6.100",
    "playwright>=1.50",
    "pytest>=8.2",
    "pytest-xdist>=3.6",
    "setuptools>=77",
]
EXTRAS = {
    "demo": DEMO,
    "finetune": FINETUNE,
    "extract": EXTRACT,
    "onnx": ONNX,
    "openvino": OPENVINO,
    "app": APP,
    "docs": DOCS,
    "bench": BENCH,
    "ray": [*EXTRACT, "ray[data]>=2.40"],
    "test": TEST,
    "dev": [
        *TEST,
        *DOCS,
        "check-wheel-contents>=0.6",
        "coverage[toml]>=7.10",
        "mypy>=1.13",
        "pytest-cov>=7.0",
        "ruff>=0.15",
        "twine>=6.1",
    ],
}


class BuildWithConfigs(build_py):
    """Ship the top-level configs/ folder as data inside the package."""

    def run(self) -> None:
        """Copy the modules, then the configs; an editable install reads them in place."""
        super().run()
        configs = ROOT / "configs"
        if configs.is_dir() and not self.editable_mode:
            shutil.copytree(
                configs,
                Path(self.build_lib, "bit_backbone", "configs"),
                ignore=shutil.ignore_patterns("__pycache__"),
                dirs_exist_ok=True,
            )


def version() -> str:
    """Read ``__version__`` out of the package's text."""
    text = (ROOT / "bit_backbone" / "__init__.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE)[1]


setup(
    name="bit-backbone",
    version=version(),
    description="Big Transfer (BiT) as a backbone for detectors and segmenters",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords=["big transfer", "BiT", "ResNetV2", "backbone", "object detection", "segmentation"],
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
    python_requires=">=3.11",
    packages=find_packages(include=["bit_backbone", "bit_backbone.*"]),
    package_data={
        "bit_backbone": [
            "py.typed",
            "app/page.css",
            "app/pick.js",
            "kernels/*.cpp",
            "kernels/*.h",
            "visualization/explorer.html",
        ]
    },
    cmdclass={"build_py": BuildWithConfigs},
    install_requires=[
        "torch>=2.8",
        "torchvision>=0.23",
        "numpy>=1.26",
        "safetensors>=0.4.5",
        "huggingface_hub>=0.26",
        "pillow>=10.4",
        "pyyaml>=6.0",
        "rich>=13.7",
    ],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["bit-backbone = bit_backbone.cli:main"]},
)

"""Packaging of ssa-analyze. Tool settings live in pyproject.toml.

``cli/`` and ``reports/`` are folders at the top of the repository; they install inside the package, as
``ssa_analysis.cli`` and ``ssa_analysis.reports``, so that nothing called ``cli`` lands in site-packages.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent
VERSION = re.search(r'^__version__ = "(.+)"', (HERE / "ssa_analysis" / "version.py").read_text(), re.M).group(1)

# make test-floors runs the tests with the floors below on Python 3.10.
# torchvision pins the torch release it was built for, which keeps the two a matching pair.
REQUIREMENTS = [
    "torch>=2.4",
    "torchvision>=0.19",
    "pyhessian>=0.1",
    "scipy>=1.11",
    "numpy>=1.26",
    "pandas>=2.1",
    "matplotlib>=3.8",
    "click>=8.2.1",
    "kornia>=0.7.3",
    "scikit-learn>=1.3",
    "threadpoolctl>=3.1",
    "jinja2>=3.1.3",
    "tomli>=2.0; python_version < '3.11'",
]
EXTRAS = {
    "parquet": ["pyarrow>=14"],
    "tensorboard": ["tensorboard>=2.14"],
    "peers": ["curvlinops-for-pytorch>=3.0"],
    "ray": ["ray>=2.56.1"],
    "slurm": ["submitit>=1.5.4"],
    "docs": ["sphinx>=8.1", "myst-parser>=4.0", "furo>=2024.8.6", "sphinx-click>=6.0"],
}
# coverage-guided fuzzing of the readers; its wheels are for Linux
ATHERIS = "atheris>=3.0; platform_system == 'Linux' and python_version >= '3.11' and python_version < '3.14'"
EXTRAS["fuzz"] = [ATHERIS]
EXTRAS["test"] = [
    "pytest>=8.2",
    "hypothesis>=6.100",
    "safetensors>=0.6.1",  # whose files are compared with what is read here
    "pytest-xdist>=3.6",
    *EXTRAS["parquet"],
    *EXTRAS["peers"],
    *EXTRAS["ray"],
    *EXTRAS["slurm"],
    *EXTRAS["docs"],
    "pingouin>=0.5.4",
    "pytorch-metric-learning>=2.5",
    "POT>=0.9.3",
    "imagecorruptions-imaug>=1.1.5",
    "setuptools>=70.1",  # a plug-in is built and installed
    # whose checkpoints are read
    "timm>=1.0.3",
    "transformers>=4.40",
    "lightly>=1.5",
    "pytorch-lightning>=2.0",
]
EXTRAS["dev"] = [*EXTRAS["test"], *EXTRAS["fuzz"], "ruff>=0.6", "mypy>=1.11", "pandas-stubs"]

setup(
    name="ssa-analysis",
    version=VERSION,
    description="Sharpness, shift, robustness and bounds of self-supervised vision checkpoints",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    license_files=["LICENSE", "NOTICE"],
    python_requires=">=3.10",
    packages=[
        *find_packages(include=["ssa_analysis", "ssa_analysis.*"]),
        "ssa_analysis.cli",
        "ssa_analysis.reports",
        "ssa_analysis.reports.figures",
    ],
    package_dir={"ssa_analysis.cli": "cli", "ssa_analysis.reports": "reports"},
    package_data={"ssa_analysis": ["py.typed"], "ssa_analysis.reports": ["*.mplstyle", "page/*", "page/vendor/*"]},
    install_requires=REQUIREMENTS,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["ssa-analyze = ssa_analysis.cli.main:main"]},
    classifiers=[
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)

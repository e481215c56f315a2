"""Installation: the library, the five scripts on PATH, and one extra for each optional framework."""

import re
from pathlib import Path

from setuptools import Extension, find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"', (ROOT / "mlaas4hep/version.py").read_text(encoding="utf-8"), re.M)[1]

EXTRAS = {
    "keras": ["keras>=3.5", "tensorflow>=2.17", "tf2onnx>=1.17", "onnx>=1.16"],
    "images": ["keras>=3.5", "tensorflow>=2.17", "tf2onnx>=1.17", "onnx>=1.16", "onnxruntime>=1.20", "pillow>=10.3"],
    "torch": ["torch>=2.6", "onnx>=1.16", "onnxscript>=0.2"],
    "sklearn": ["scikit-learn>=1.5", "skl2onnx>=1.19", "onnx>=1.16"],
    "xgboost": ["xgboost>=3.0", "scikit-learn>=1.5", "onnxmltools>=1.14", "onnx>=1.16"],
    "tensorboard": ["tensorboard>=2.17"],
    "server": [
        "starlette>=0.40",
        "uvicorn[standard]>=0.40,<0.55",  # see serving/http/fast_path.py
        "python-multipart>=0.0.12",
        "prometheus_client>=0.21",
        "orjson>=3.10",
        "onnx>=1.16",  # shapes of graphs that are not trusted
        "onnxruntime>=1.20",
        "pillow>=10.3",
        "protobuf>=4.25",
        "cryptography>=42",  # client certificates, signed models
    ],
    "grpc": ["grpcio>=1.60", "protobuf>=4.25"],
    "sign": ["cryptography>=42"],
    "formats": ["pyarrow>=18", "fastavro>=1.9", "h5py>=3.11"],
    "xrootd": ["xrootd>=5.6"],
    "s3": ["s3fs>=2024.2"],
    "plot": ["matplotlib>=3.8", "mplhep>=0.3", "hist>=2.7"],
}
EXTRAS["all"] = sorted({package for packages in EXTRAS.values() for package in packages})
EXTRAS["bench"] = ["weaver-core>=0.5"]  # what is measured beside us
EXTRAS["fuzz"] = ["atheris>=2.3; sys_platform == 'linux'"]  # guides the fuzzing of `make soak`
EXTRAS["test"] = [
    "axe-playwright-python>=0.1.4",
    "flask>=3",  # moto's server needs it
    "flask-cors>=4",
    "hypothesis>=6",
    "moto[s3]>=5",
    "mypy>=1.15",
    "playwright>=1.48",
    "pytest>=8",
    "pytest-timeout>=2.3",
    "pytest-xdist>=3.7",
    "ruff>=0.9",
    "schemathesis>=4",
    "scikit-learn>=1.5",
    "tritonclient[http]>=2.50",
    "types-psutil",
    "types-PyYAML",
    "types-requests",
    "types-tqdm",
]

KERNEL = Extension(
    "mlaas4hep._kernel",
    ["mlaas4hep/kernel.cpp", "mlaas4hep/kernel_pages.cpp"],
    depends=["mlaas4hep/kernel_shared.h"],
    language="c++",
    # Optimised, but with every operation rounded as NumPy rounds it.
    extra_compile_args=["-std=c++17", "-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"],
    optional=True,  # without a compiler NumPy does the same, several times slower
)

setup(
    name="mlaas4hep",
    version=VERSION,
    description="Machine learning as a service for high-energy physics: from ROOT files to served predictions",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10",
    packages=find_packages(include=["mlaas4hep", "mlaas4hep.*"]),
    package_data={
        "mlaas4hep": [
            *("py.typed", "kernel.cpp", "kernel_pages.cpp", "kernel_shared.h"),
            *("serving/page/static/*", "serving/protocols/openapi.json"),
        ]
    },
    data_files=[
        ("share/mlaas4hep/models", sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("examples/models/*.py")))
    ],
    scripts=["reader.py", "workflow.py", "tfaas_client.py", "tfaas_server.py", "hep_resnet.py"],
    ext_modules=[KERNEL],
    install_requires=[
        "aiohttp>=3.9",  # fsspec needs it for https://
        "awkward>=2.6",
        "deflate>=0.5",
        "fsspec>=2024.2",
        "lz4>=4.3",
        "numpy>=1.26",
        "psutil>=5.9",
        "pydantic>=2.7",
        "pyyaml>=6.0",
        "requests>=2.31",
        "tqdm>=4.66",
        "typing_extensions>=4.10",
        "uproot>=5.4",
        "xxhash>=3.4",
        "zstandard>=0.22",
    ],
    extras_require=EXTRAS,
)

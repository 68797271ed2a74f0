from setuptools import setup
from torch.utils.cpp_extension import BuildExtension, CppExtension
setup(name="cornernet_d2", packages=["cornernet_d2"], ext_modules=[CppExtension("cornernet_d2._C", ["cornernet_d2/csrc/corner_pool.cpp"], extra_compile_args=["-O3","-Wall","-Wno-psabi","-DTORCH_TARGET_VERSION=0x020a000000000000","-DPy_LIMITED_API=0x030a0000"], py_limited_api=True)], cmdclass={"build_ext":BuildExtension})

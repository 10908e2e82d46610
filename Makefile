# effnet: `make help` lists the targets.
#
#   V=1                show the commands
#   SAN=1              address and undefined-behaviour sanitizers, in build/san, without CUDA
#   TSAN=1             the thread sanitizer, in build/tsan, without CUDA
#   MSAN=1             clang's memory sanitizer, in build/msan, without CUDA and oneDNN
#   FUZZ_SECONDS=600   how long `make fuzz` runs each fuzzer, FUZZERS="image list" which
#   CUDA=/opt/cuda     where the CUDA toolkit is; CUDA= leaves the GPU out
#   CUDA_ARCHS=90      compute capabilities to compile for (also as PTX for the newest named)
#   ONEDNN=0           leave oneDNN out
#   JPEG=0             leave libjpeg-turbo out; stb_image decodes JPEG
#   WEBP=0             leave libwebp out, and with it WebP
#   TIFF=0             leave libtiff out, and with it TIFF
#   AVIF=0             leave libavif out, and with it AVIF
#   BUILD=folder       build there and not in build; the folder may lie outside of the source
#   CC= CFLAGS= CPPFLAGS= LDFLAGS= NVCCFLAGS=   compilers and flags
#   NETWORKS=          what `make weights` makes (default: lite1 b1-plain); lite1-int8: in integers
#   PREFIX= DESTDIR=   where `make install` puts things
#
# Nothing is asked of gcc, Python or CUDA while this file is read, so `make demo` can install them.

V ?= 0
Q := $(if $(filter 0,$(V)),@,)
SAN ?= 0
TSAN ?= 0
MSAN ?= 0
FUZZ ?= 0
SANITIZERS :=
BUILD := build
ifeq ($(SAN),1)
SANITIZERS := address,undefined
BUILD := build/san
else ifeq ($(TSAN),1)
SANITIZERS := thread
BUILD := build/tsan
else ifeq ($(MSAN),1)
SANITIZERS := memory
BUILD := build/msan
else ifeq ($(FUZZ),1)
SANITIZERS := address,undefined
BUILD := build/fuzz
endif
CC := $(if $(filter default,$(origin CC)),$(if $(filter 1,$(MSAN) $(FUZZ)),clang,gcc),$(CC))
NETWORKS ?= lite1 b1-plain
PREFIX ?= /usr/local
DESTDIR ?=
SETUP := tools/setup.sh
ifeq ($(wildcard Makefile),)
$(error effnet: start make in the folder of effnet's source, or by "make -C folder")
endif
ifneq ($(words $(BUILD)),1)
$(error effnet: BUILD="$(BUILD)" is to be one word: make cannot work with spaces in names)
endif
ifeq ($(realpath $(BUILD)),$(CURDIR))
$(error effnet: BUILD=$(BUILD) is the source folder, where what is built would lie among the sources)
endif
PYTHON := .venv/bin/python
JOBS := $(shell nproc 2>/dev/null || echo 2)
# One job a processor where nobody asked for a number of jobs.
SUBMAKE = $(MAKE) --no-print-directory $(if $(filter -j%,$(MAKEFLAGS)),,-j$(JOBS))
VERSION := $(shell sed -n 's/^.define EFFNET_VERSION "\(.*\)"/\1/p' include/effnet.h)

# ---------------------------------------------------------------- what is there

CUDA ?= $(firstword $(wildcard /usr/local/cuda) $(patsubst %/bin/nvcc,%,$(shell command -v nvcc 2>/dev/null)))
CUDA_ARCHS ?= 80 89 90
NVCC := $(if $(CUDA),$(wildcard $(CUDA)/bin/nvcc))
CUDART := $(if $(CUDA),$(firstword $(wildcard $(addprefix $(CUDA)/,lib64/libcudart_static.a \
	lib/libcudart_static.a lib/x86_64-linux-gnu/libcudart_static.a))))
CUDNN_HEADER := $(firstword $(wildcard $(addsuffix /cudnn_backend.h,$(if $(CUDA),$(CUDA)/include) \
	/usr/include /usr/include/x86_64-linux-gnu /usr/local/include)))
HAVE_CUDA := $(if $(SANITIZERS),,$(if $(and $(NVCC),$(CUDART),$(CUDNN_HEADER)),1,))
ONEDNN ?= $(if $(wildcard /usr/include/dnnl.h /usr/local/include/dnnl.h),1,0)
HAVE_ONEDNN := $(if $(filter 1,$(MSAN) $(FUZZ)),,$(filter 1,$(ONEDNN)))
JPEG ?= $(if $(wildcard /usr/include/jpeglib.h /usr/local/include/jpeglib.h),1,0)
HAVE_JPEG := $(filter 1,$(JPEG))
# Only the header is wanted: the library is loaded when a file asks for it.
WEBP ?= $(if $(wildcard /usr/include/webp/decode.h /usr/local/include/webp/decode.h),1,0)
HAVE_WEBP := $(filter 1,$(WEBP))
# Before 4.5 libtiff has no error handlers of a file's own.
TIFF ?= $(if $(shell grep -ls TIFFOpenOptionsAlloc /usr/include/tiffio.h /usr/include/*/tiffio.h /usr/local/include/tiffio.h),1,0)
HAVE_TIFF := $(filter 1,$(TIFF))
# 0.11 or later.
AVIF ?= $(if $(shell grep -ls imageDimensionLimit /usr/include/avif/avif.h /usr/local/include/avif/avif.h),1,0)
HAVE_AVIF := $(filter 1,$(AVIF))

# ---------------------------------------------------------------- flags

WARNINGS := -Wall -Wextra -Werror -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla
CFLAGS ?= -O3 -g
# What is built does not depend on the folder: paths are relative, and debug information calls the source ".".
# gcc takes the folder's name from PWD, which may be one through a link.
export PWD := $(CURDIR)
ALL_CFLAGS := -std=c11 -D_GNU_SOURCE $(WARNINGS) -ffile-prefix-map='$(CURDIR)=.' $(CPPFLAGS) $(CFLAGS) \
	-fopenmp-simd -fPIC -fvisibility=hidden -Iinclude -Isrc -Ikernels -Itests
ALL_LDFLAGS := -Wl,--as-needed
LDLIBS := -lpng -lz -lcjson -lm -lpthread -ldl
ifneq ($(SANITIZERS),)
ALL_CFLAGS += -O1 -fsanitize=$(SANITIZERS) -fno-sanitize-recover=all -fno-omit-frame-pointer
ALL_LDFLAGS += -fsanitize=$(SANITIZERS)
endif
ifeq ($(MSAN),1)
ALL_CFLAGS += -fsanitize-memory-track-origins
endif
ifeq ($(FUZZ),1)
ALL_CFLAGS += -fsanitize=fuzzer-no-link
endif
ALL_LDFLAGS += $(LDFLAGS)

LIB_SOURCES := $(sort $(wildcard src/common/*.c src/image/*.c src/image/formats/*.c src/model/*.c \
	src/pipeline/*.c src/quantize/*.c src/backend/*.c src/backend/reference/*.c src/backend/int8/*.c))
CLI_SOURCES := $(sort $(wildcard src/cli/*.c src/cli/bench/*.c src/cli/evaluate/*.c src/cli/quantize/*.c) src/main.c)
ifeq ($(HAVE_JPEG),1)
ALL_CFLAGS += -DEFFNET_HAVE_JPEG
LDLIBS := -ljpeg $(LDLIBS)
endif
ifeq ($(HAVE_WEBP),1)
ALL_CFLAGS += -DEFFNET_HAVE_WEBP
endif
ifeq ($(HAVE_TIFF),1)
ALL_CFLAGS += -DEFFNET_HAVE_TIFF
endif
ifeq ($(HAVE_AVIF),1)
ALL_CFLAGS += -DEFFNET_HAVE_AVIF
endif
LIB_SOURCES := $(filter-out $(if $(HAVE_JPEG),%/jpeg_stb.c,%/jpeg_turbo.c) $(if $(HAVE_WEBP),,%/webp_lossless.c) \
	$(if $(HAVE_TIFF),,%/tiff_library.c %/tiff_cost.c %/tiff_rows.c) $(if $(HAVE_AVIF),,%/avif_cost.c),$(LIB_SOURCES))
# Under the memory sanitizer images alone are tested: what the rest links against is not built with it.
ifeq ($(MSAN),1)
LIB_SOURCES := $(filter src/common/% src/image/% src/model/%,$(LIB_SOURCES))
endif
KERNEL_SOURCES :=
GPU_TEST_SOURCES :=
ifeq ($(HAVE_ONEDNN),1)
ALL_CFLAGS += -DEFFNET_HAVE_ONEDNN
LIB_SOURCES += $(sort $(wildcard src/backend/onednn/*.c))
LDLIBS += -ldnnl -lgomp
endif
ifeq ($(HAVE_CUDA),1)
ALL_CFLAGS += -DEFFNET_HAVE_CUDA -isystem $(CUDA)/include -isystem $(patsubst %/,%,$(dir $(CUDNN_HEADER)))
LIB_SOURCES += $(sort $(wildcard src/backend/cuda/*.c src/backend/cuda/cudnn/*.c src/backend/cuda/nvjpeg/*.c \
	src/backend/cuda/ops/*.c))
KERNEL_SOURCES := $(sort $(wildcard kernels/*.cu))
GPU_TEST_SOURCES := $(sort $(wildcard tests/gpu/test_*.c))
LDLIBS += $(CUDART) -lrt -lstdc++
endif

# By itself nvcc compresses PTX alone: with machine code too the program takes 5 MB in place of 17.
NVCC_FLAGS := -std=c++17 -O3 -Werror all-warnings -Xcompiler -Wall,-Wextra,-Werror,-fPIC,-fvisibility=hidden \
	-Xptxas -v -objtemp -Xfatbin -compress-all -Iinclude -Isrc -Ikernels $(NVCCFLAGS)
# Names in anonymous namespaces hold a hash of this path, and without the option of the file's real one.
NVCC_PATH = -Xcudafe --orig_src_path_name=/effnet/$<
# A kernel named *_sm90a.cu uses what sm_90a alone has (wgmma, TMA) and is compiled for nothing else.
NEWEST_ARCH := $(shell printf '%s\n' $(CUDA_ARCHS) | sort -n | tail -n 1)
NVCC_TARGETS := $(foreach a,$(CUDA_ARCHS),-gencode arch=compute_$(a),code=sm_$(a)) \
	-gencode arch=compute_$(NEWEST_ARCH),code=compute_$(NEWEST_ARCH)
NVCC_TARGETS_SM90A := -gencode arch=compute_90a,code=sm_90a

# ---------------------------------------------------------------- what is made

KERNEL_OBJECTS := $(KERNEL_SOURCES:%.cu=$(BUILD)/obj/%.o)
LIB_OBJECTS := $(LIB_SOURCES:%.c=$(BUILD)/obj/%.o) $(KERNEL_OBJECTS) \
	$(if $(KERNEL_OBJECTS),$(BUILD)/obj/tuning_data.o)
SONAME := libeffnet.so.$(firstword $(subst ., ,$(VERSION)))
SHARED := libeffnet.so.$(VERSION)
# Groups of sections, which C++ has, would hold names that have become local; so would what is compiled at the end.
LINK_OBJECTS = $(CC) -r -nostdlib -Wl,--force-group-allocation \
	$(if $(findstring -flto,$(ALL_CFLAGS)),-flinker-output=nolto-rel)
OBJCOPY ?= objcopy
NM ?= nm
CLI_OBJECTS := $(CLI_SOURCES:%.c=$(BUILD)/obj/%.o)
# tests/test_*.c and tests/run_*.c are a program each (the latter for the Python tests); the rest of
# tests/*.c is linked into all of them. A test of a backend that is left out says so and exits with 77.
TEST_SOURCES := $(sort $(wildcard tests/test_*.c))
TEST_RUNNERS := $(sort $(wildcard tests/run_*.c))
TEST_SUPPORT := $(filter-out tests/test_%.c tests/run_%.c,$(sort $(wildcard tests/*.c)))
ifeq ($(MSAN),1)
TEST_SUPPORT := $(filter-out tests/reference_logits.c,$(TEST_SUPPORT)) # of backends
endif
TEST_PROGRAMS := $(TEST_SOURCES:%.c=$(BUILD)/%)
PYTHON_TESTS := tests
# Under the thread sanitizer, what works in threads; the rest would take hours and show nothing.
ifeq ($(TSAN),1)
TEST_PROGRAMS := $(filter %/test_threads %/test_thread_pool %/test_linear %/test_cpu_share %/test_pipeline \
	%/test_pipeline_decode %/test_pipeline_large,$(TEST_PROGRAMS))
PYTHON_TESTS := tests/test_cli_classify.py
endif
IMAGE_TESTS := test_image test_image_resize test_resize_kernels run_fit_image run_mutate_images
FUZZERS ?= $(patsubst tests/fuzz/fuzz_%.c,%,$(sort $(wildcard tests/fuzz/fuzz_*.c)))
FUZZ_SECONDS ?= 600
FUZZ_PROGRAMS := $(FUZZERS:%=$(BUILD)/tests/fuzz/fuzz_%) $(BUILD)/tests/fuzz/save_weights
GPU_TEST_PROGRAMS := $(GPU_TEST_SOURCES:%.c=$(BUILD)/%)
RUNNER_PROGRAMS := $(TEST_RUNNERS:%.c=$(BUILD)/%)
SUPPORT_OBJECTS := $(TEST_SUPPORT:%.c=$(BUILD)/obj/%.o)
TEST_OBJECTS := $(patsubst %.c,$(BUILD)/obj/%.o,$(TEST_SOURCES) $(TEST_RUNNERS) $(TEST_SUPPORT) $(GPU_TEST_SOURCES) \
	$(wildcard tests/fuzz/*.c))

all: config ## build the program, build/effnet (the default)
	+@$(SUBMAKE) program

program: $(BUILD)/effnet

objects: $(LIB_OBJECTS) $(CLI_OBJECTS) $(TEST_OBJECTS)

# For the program and the tests, which use more of the library than it exports.
$(BUILD)/objects.a: $(LIB_OBJECTS) $(BUILD)/objects.list
	@echo "  AR    $@"
	$(Q)rm -f $@ && $(AR) rcsD $@ $(LIB_OBJECTS)

$(BUILD)/effnet: $(CLI_OBJECTS) $(BUILD)/objects.a $(BUILD)/ld.flags
	@echo "  LD    $@"
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $(CLI_OBJECTS) $(BUILD)/objects.a $(LDLIBS)

library: $(BUILD)/libeffnet.a $(BUILD)/libeffnet.so ## build libeffnet.so and libeffnet.a for other programs

# One object, in which internal names are local and so cannot clash with a program's own. Then its public names
# are made hidden, by a second object that says so: a shared object that links the archive does not export them.
$(BUILD)/libeffnet.a: $(LIB_OBJECTS) $(BUILD)/objects.list
	@echo "  AR    $@"
	$(Q)rm -rf $(BUILD)/one && mkdir -p $(BUILD)/one
	$(Q)$(LINK_OBJECTS) -o $(BUILD)/one/local.o $(LIB_OBJECTS)
	$(Q)$(OBJCOPY) --localize-hidden $(BUILD)/one/local.o
	$(Q){ $(NM) -g --defined-only $(BUILD)/one/local.o | sed 's/.* /.hidden /'; \
		echo '.section .note.GNU-stack,"",%progbits'; } | $(CC) -x assembler -c -o $(BUILD)/one/hidden.o -
	$(Q)$(LINK_OBJECTS) -o $(BUILD)/one/effnet.o $(BUILD)/one/local.o $(BUILD)/one/hidden.o
	$(Q)rm -f $@ && $(AR) rcsD $@ $(BUILD)/one/effnet.o && rm -r $(BUILD)/one

# What it calls of itself stays its own, whatever else in a process has the same name.
$(BUILD)/$(SHARED): $(LIB_OBJECTS) $(BUILD)/objects.list $(BUILD)/libeffnet.map $(BUILD)/ld.flags
	@echo "  LD    $@"
	$(Q)$(CC) -shared $(ALL_LDFLAGS) -Wl,-Bsymbolic-functions $(if $(SANITIZERS),,-Wl,-z,defs) \
		-Wl,-soname,$(SONAME) -Wl,--version-script,$(BUILD)/libeffnet.map -o $@ $(LIB_OBJECTS) $(LDLIBS)

$(BUILD)/libeffnet.so: $(BUILD)/$(SHARED)
	$(Q)ln -sf $(SHARED) $(BUILD)/$(SONAME) && ln -sf $(SONAME) $@

$(BUILD)/libeffnet.map: include/libeffnet.map.in include/effnet.h
	@mkdir -p $(@D)
	$(Q)sed 's/@VERSION@/$(VERSION)/' $< >$@

ifeq ($(SAN),1)
# Over broken JPEGs stb_image shifts zeros by more than 31 bits, harmlessly.
$(BUILD)/obj/src/image/formats/jpeg_stb.o: private ALL_CFLAGS += -fno-sanitize=undefined
endif

$(BUILD)/obj/%.o: %.c $(BUILD)/cc.flags
	@echo "  CC    $<"
	@mkdir -p $(@D)
	$(Q)$(CC) $(ALL_CFLAGS) -MMD -MP -c -o $@ $<

$(BUILD)/obj/tuning_data.o: $(BUILD)/obj/tuning_data.c $(BUILD)/cc.flags
	@echo "  CC    $<"
	$(Q)$(CC) $(ALL_CFLAGS) -c -o $@ $<

$(BUILD)/obj/tuning_data.c: $(KERNEL_OBJECTS) $(wildcard tools/tuning/*.txt) tools/embed_tuning.sh
	@echo "  TABLE $@"
	$(Q)tools/embed_tuning.sh $(KERNEL_OBJECTS) >$@

# The assembler's report (registers, spills, shared memory) lands beside the object; a test reads it.
$(BUILD)/obj/%.o: %.cu $(BUILD)/nvcc.flags
	@echo "  NVCC  $<"
	@mkdir -p $(@D)
	$(Q)$(NVCC) $(NVCC_FLAGS) $(NVCC_PATH) $(if $(filter %_sm90a.cu,$<),$(NVCC_TARGETS_SM90A),$(NVCC_TARGETS)) \
		-MMD -MP -MF $(@:.o=.d) -c -o $@ $< 2>$(@:.o=.ptxas.txt) \
		|| { grep -v '^ptxas info\|^    [0-9]* bytes stack' $(@:.o=.ptxas.txt) >&2; rm -f $@; exit 1; }

$(BUILD)/tests/%: $(BUILD)/obj/tests/%.o $(SUPPORT_OBJECTS) $(BUILD)/objects.a $(BUILD)/ld.flags
	@echo "  LD    $@"
	@mkdir -p $(@D)
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $(filter %.o,$^) $(BUILD)/objects.a -lcmocka $(LDLIBS)

$(BUILD)/tests/test_metrics: $(BUILD)/obj/src/cli/evaluate/metrics.o

FUZZ_OBJECTS := $(filter-out %/main.o,$(CLI_OBJECTS)) $(BUILD)/obj/tests/fuzz/fuzz.o $(SUPPORT_OBJECTS)
$(BUILD)/tests/fuzz/fuzz_%: $(BUILD)/obj/tests/fuzz/fuzz_%.o $(FUZZ_OBJECTS) $(BUILD)/objects.a $(BUILD)/ld.flags
	@echo "  LD    $@"
	@mkdir -p $(@D)
	$(Q)$(CC) $(ALL_LDFLAGS) -fsanitize=fuzzer -o $@ $(filter %.o,$^) $(BUILD)/objects.a $(LDLIBS)

# The GPU tests run on machines that have little else: no cmocka, and no shared library that they do not use.
$(BUILD)/tests/gpu/%: $(BUILD)/obj/tests/gpu/%.o $(BUILD)/objects.a $(BUILD)/ld.flags
	@echo "  LD    $@"
	@mkdir -p $(@D)
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $(filter %.o,$^) $(BUILD)/objects.a $(LDLIBS)

$(addprefix $(BUILD)/tests/gpu/,test_network test_pipeline_decode test_session test_threads): \
	$(BUILD)/obj/tests/weights_builder.o

# Each of these files holds what its dependents were made with, and is written only when that changes.
$(BUILD)/cc.flags: export REMEMBER = $(shell $(CC) --version 2>/dev/null | head -n 1) $(CC) $(ALL_CFLAGS)
$(BUILD)/ld.flags: export REMEMBER = $(CC) $(ALL_LDFLAGS) $(LDLIBS) $(CLI_OBJECTS) $(SUPPORT_OBJECTS)
$(BUILD)/nvcc.flags: export REMEMBER = $(NVCC) $(NVCC_FLAGS) $(NVCC_TARGETS) $(NVCC_TARGETS_SM90A)
$(BUILD)/objects.list: export REMEMBER = $(LIB_OBJECTS)
$(BUILD)/cc.flags $(BUILD)/ld.flags $(BUILD)/nvcc.flags $(BUILD)/objects.list: FORCE
	@mkdir -p $(@D)
	@printf '%s\n' "$$REMEMBER" | cmp -s - $@ || printf '%s\n' "$$REMEMBER" >$@

config: ## say what was found for the build, and what is left out
	@CC='$(CC)' CUDA='$(CUDA)' NVCC='$(NVCC)' CUDART='$(CUDART)' CUDNN_HEADER='$(CUDNN_HEADER)' \
		HAVE_ONEDNN='$(HAVE_ONEDNN)' HAVE_JPEG='$(HAVE_JPEG)' HAVE_WEBP='$(HAVE_WEBP)' HAVE_TIFF='$(HAVE_TIFF)' HAVE_AVIF='$(HAVE_AVIF)' CUDA_ARCHS='$(CUDA_ARCHS)' SANITIZERS='$(SANITIZERS)' tools/config.sh

# ---------------------------------------------------------------- set-up, demo, weights

setup: ## install what is missing: Debian packages, the Python environment .venv
	@$(SETUP)

# The program makes weights of integers.
weights: $(if $(filter %-int8,$(NETWORKS)),program) ## fetch the published weights and convert them: weights/*.safetensors; NETWORKS="lite0 lite1 lite2 b1-plain", "lite1-int8"
	@EFFNET='$(BUILD)/effnet' tools/make_weights.sh $(NETWORKS)

# The sub-make reads this file anew, and so finds what set-up has just installed.
demo: ## set up, build, make the weights, classify everything in samples/
	@$(SETUP)
	+@$(SUBMAKE) all weights
	@echo
	@$(BUILD)/effnet classify -m weights/lite1.safetensors $(sort $(wildcard samples/*.png samples/*.jpg))

# ---------------------------------------------------------------- tests

check: ## set up, build, run every test; the last line counts them
	@$(SETUP) --test
	@tools/fetch_wheels.sh tools/requirements-photos.txt .cache/photos
	+@$(SUBMAKE) config program tests weights
	+@$(SUBMAKE) run-tests

check-c: ## the same with the tests in C alone: for another compiler, or a build without a backend
	@$(SETUP) --test
	+@$(SUBMAKE) config program tests weights
	@V=$(V) PYTHON_TESTS= tests/check.sh $(BUILD) $(TEST_PROGRAMS) $(GPU_TEST_PROGRAMS)

run-tests:
	@V=$(V) PYTHON_TESTS='$(PYTHON_TESTS)' tests/check.sh $(BUILD) $(TEST_PROGRAMS) $(GPU_TEST_PROGRAMS)

tests: $(TEST_PROGRAMS) $(RUNNER_PROGRAMS) gpu-tests

gpu-tests: $(GPU_TEST_PROGRAMS) ## build the GPU tests

check-msan: ## decode every image of the tests, and damaged ones, under clang's memory sanitizer
	@command -v clang >/dev/null || { echo "effnet: no clang (apt-get install clang libclang-rt-14-dev)" >&2; exit 1; }
	+@$(SUBMAKE) MSAN=1 image-tests
	@V=$(V) tests/check_images.sh build/msan

image-tests: $(IMAGE_TESTS:%=$(BUILD)/tests/%)

fuzz: ## give the readers of images, weights, lists, options and resume files any input, by clang's libFuzzer
	@command -v clang >/dev/null || { echo "effnet: no clang (apt-get install clang libclang-rt-14-dev)" >&2; exit 1; }
	@$(SETUP) --test
	+@$(SUBMAKE) FUZZ=1 fuzzers
	@V=$(V) tests/fuzz/run.sh build/fuzz $(FUZZ_SECONDS) $(FUZZERS)

fuzzers: $(FUZZ_PROGRAMS)

check-python: wheel ## build the Python package and run its tests, in an environment of their own
	+@$(SUBMAKE) program
	@V=$(V) PYTHON=.venv-python/bin/python PYTHON_TESTS=python/tests tests/check.sh $(BUILD)

check-scale: wheel ## the examples for a Ray cluster, on one of several nodes on this machine, in an environment of their own
	@$(SETUP) --scale
	+@$(SUBMAKE) program
	@V=$(V) PYTHON=.venv-scale/bin/python PYTHON_TESTS=python/tests_scale tests/check.sh $(BUILD)

check-gpu: ## build and run the GPU tests, on a machine that has one; PARTS="kernels network sanitize"
	+@$(SUBMAKE) config program gpu-tests
	@BUILD=$(BUILD) tests/gpu/run.sh $(PARTS)

# Programs without symbols, the shared libraries that they need beyond the C library, the scripts that run them,
# weights and samples, for a machine that has the GPU but neither compiler nor Debian's packages.
gpu-pack: ## pack the GPU tests to run them elsewhere, by tests/gpu/run.sh: build/gpu-tests.txz
	+@$(SUBMAKE) config program gpu-tests
	@echo "  PACK  $(BUILD)/gpu-tests.txz"
	$(Q)rm -rf $(BUILD)/pack && mkdir -p $(BUILD)/pack/build/tests/gpu $(BUILD)/pack/build/lib
	$(Q)strip -o $(BUILD)/pack/build/effnet $(BUILD)/effnet
	$(Q)for p in $(GPU_TEST_PROGRAMS); do strip -o $(BUILD)/pack/build/tests/gpu/$${p##*/} $$p || exit 1; done
	$(Q)ldd $(BUILD)/effnet $(GPU_TEST_PROGRAMS) | awk '$$2 == "=>" && $$3 ~ "^/" { print $$3 }' | sort -u \
		| grep -Ev '/lib(c|m|dl|rt|pthread|stdc\+\+|gcc_s)\.so' | xargs -r cp -Lt $(BUILD)/pack/build/lib
	$(Q)cp --parents tests/gpu/run.sh tests/counts.sh $(wildcard weights/*.safetensors samples/*.png) $(BUILD)/pack
	$(Q)tar -C $(BUILD)/pack -c . | xz -9 >$(BUILD)/gpu-tests.txz && rm -rf $(BUILD)/pack

# Unpacked beside itself, too: for the tests, and for who wants PYTHONPATH=build/python/package.
wheel: ## build the Python package with the library in it: build/python/effnet-*.whl
	@$(SETUP) --package
	$(Q)rm -rf $(BUILD)/python && mkdir -p $(BUILD)/python/package
	+@EFFNET_BUILD=$(BUILD) .venv-python/bin/python python/build_backend.py $(BUILD)/python
	$(Q).venv-python/bin/python -m zipfile -e $(BUILD)/python/effnet-*.whl $(BUILD)/python/package

lint: ## check the C and CUDA sources against .clang-format
	@tools/format.sh --check

format: ## rewrite the C and CUDA sources in the project's format
	@tools/format.sh

# ---------------------------------------------------------------- installation

man: $(BUILD)/effnet.1 ## make the manual page, build/effnet.1 (needs pandoc)

$(BUILD)/effnet.1: docs/effnet.1.md
	@mkdir -p $(@D)
	$(Q)pandoc --standalone --from markdown --to man -o $@ $<

# In quotes, since both may have spaces in them.
BIN_DIR = "$(DESTDIR)$(PREFIX)/bin"
LIB_DIR = "$(DESTDIR)$(PREFIX)/lib"
INCLUDE_DIR = "$(DESTDIR)$(PREFIX)/include"
DATA_DIR = "$(DESTDIR)$(PREFIX)/share/effnet"
MAN_DIR = "$(DESTDIR)$(PREFIX)/share/man/man1"
FOLDERS = $(BIN_DIR) $(LIB_DIR)/pkgconfig $(INCLUDE_DIR) $(DATA_DIR) $(MAN_DIR)
INSTALLED_WEIGHTS := weights/lite1.safetensors weights/b1-plain.safetensors
HEADERS := include/effnet.h include/effnet_linear.h include/effnet_lab.h

# Weights that are there are taken as they are: neither network nor Python is needed then. share/effnet/folders
# names the folders that are made here, for uninstall.
install: all ## install under PREFIX (default /usr/local): program, weights, manual, library
	@case "$(PREFIX)" in /*) ;; *) echo "effnet: PREFIX=$(PREFIX) is not an absolute path" >&2; exit 1 ;; esac
	+@$(SUBMAKE) library
	+@for w in $(INSTALLED_WEIGHTS); do test -f $$w || { $(SUBMAKE) weights || exit 1; break; }; done
	+@if command -v pandoc >/dev/null; then $(SUBMAKE) man; \
		else echo "effnet: no pandoc, so the manual page is left out (apt-get install pandoc)"; fi
	$(Q)printf '%s\n' 'prefix=$(PREFIX)' 'libdir=$${prefix}/lib' 'Name: effnet' \
		'Description: EfficientNet-B1-class image classifiers' 'Version: $(VERSION)' \
		'Cflags: -I"$${prefix}/include"' 'Libs: -L"$${libdir}" -leffnet' 'Libs.private: $(LDLIBS)' >$(BUILD)/effnet.pc
	$(Q)install -d "$(DESTDIR)/"
	$(Q){ cat $(DATA_DIR)/folders 2>/dev/null; for d in $(FOLDERS); do while ! test -d "$$d"; do \
		printf '%s\n' "$${d#"$(DESTDIR)"}"; d=$$(dirname "$$d"); done; done; } | LC_ALL=C sort -ru >$(BUILD)/folders
	$(Q)install -d $(FOLDERS)
	$(Q)install -m 755 $(BUILD)/effnet $(BIN_DIR)/effnet
	$(Q)install -m 644 $(BUILD)/libeffnet.a $(BUILD)/$(SHARED) $(LIB_DIR)
	$(Q)cp -P $(BUILD)/$(SONAME) $(BUILD)/libeffnet.so $(LIB_DIR)
	$(Q)install -m 644 $(HEADERS) $(INCLUDE_DIR)
	$(Q)install -m 644 $(INSTALLED_WEIGHTS) $(BUILD)/folders $(DATA_DIR)
	$(Q)test ! -f $(BUILD)/effnet.1 || install -m 644 $(BUILD)/effnet.1 $(MAN_DIR)/effnet.1
	$(Q)install -m 644 $(BUILD)/effnet.pc $(LIB_DIR)/pkgconfig/effnet.pc
	@echo "installed under $(DESTDIR)$(PREFIX)"

uninstall: ## remove what `make install` put there, and the folders that it made
	$(Q)rm -f $(BIN_DIR)/effnet $(LIB_DIR)/libeffnet.a $(LIB_DIR)/pkgconfig/effnet.pc $(MAN_DIR)/effnet.1 \
		$(foreach l,libeffnet.so $(SONAME) $(SHARED),$(LIB_DIR)/$(l)) \
		$(foreach h,$(HEADERS),$(INCLUDE_DIR)/$(notdir $(h))) \
		$(foreach w,$(INSTALLED_WEIGHTS),$(DATA_DIR)/$(notdir $(w)))
	$(Q)made=$$(cat $(DATA_DIR)/folders 2>/dev/null); rm -f $(DATA_DIR)/folders; echo "$$made" | while IFS= read -r d; do \
		if test -n "$$d" && test -d "$(DESTDIR)$$d"; then rmdir --ignore-fail-on-non-empty "$(DESTDIR)$$d"; fi; done

# A folder of somebody else's choice may hold more than was built.
clean: ## remove what was built; weights and the Python environments stay
ifneq ($(filter build build/%,$(BUILD)),)
	rm -rf build
else
	rm -rf $(addprefix $(BUILD)/obj/,src kernels tests) $(addprefix $(BUILD)/,pack python)
	rm -f $(addprefix $(BUILD)/,effnet objects.a libeffnet.a libeffnet.so $(SONAME) $(SHARED) libeffnet.map \
		cc.flags ld.flags nvcc.flags objects.list effnet.1 effnet.pc folders pytest.xml gpu-tests.txz) $(TEST_PROGRAMS) $(GPU_TEST_PROGRAMS) $(RUNNER_PROGRAMS)
	for d in $(addprefix $(BUILD),/obj /tests/gpu /tests /); do \
		test ! -d $$d || rmdir --ignore-fail-on-non-empty $$d; done
endif

# Weights of integers by other hands have no stamp in weights/cache.
distclean: clean ## remove what was fetched too: the published weights, .venv, .venv-python, .venv-scale, .cache
	rm -f $(patsubst weights/cache/%/made.sha256,weights/%.safetensors,$(wildcard weights/cache/*-int8/made.sha256))
	rm -rf .venv .venv-python .venv-scale .cache weights/cache
	rm -f $(foreach n,lite0 lite1 lite2 b1-plain,weights/$(n).safetensors weights/$(n).onnx)

help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 22
	@echo
	@sed -n '/^[^#]/q; s/^#  / /p' Makefile


.PHONY: all program library objects config setup weights demo check check-c run-tests tests gpu-tests check-gpu check-msan \
	fuzz fuzzers check-python wheel image-tests gpu-pack lint format man \
	install uninstall clean distclean help FORCE
.SECONDARY:
.DELETE_ON_ERROR:
-include $(LIB_OBJECTS:.o=.d) $(CLI_OBJECTS:.o=.d) $(TEST_OBJECTS:.o=.d)

/* oneDNN's C interface, as much of it as changed with 3.0: the one file that knows which version this is.
 *
 * 3.0 made memory descriptors opaque, with handles that somebody owns, dropped the descriptors of operations
 * that stood between those and primitive descriptors, and took the scale from element-wise post-operations.
 * The functions here follow 3.x; 2.6 is made to look like it. What both have in common is called directly. */
#ifndef EFFNET_BACKEND_ONEDNN_API_H
#define EFFNET_BACKEND_ONEDNN_API_H

#include <dnnl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#if DNNL_VERSION_MAJOR < 2 || (DNNL_VERSION_MAJOR == 2 && DNNL_VERSION_MINOR < 6)
#error "oneDNN must be 2.6 or newer"
#endif

#if DNNL_VERSION_MAJOR >= 3

/* A handle, to be released by onednn_desc_destroy, and one that belongs to a memory or a primitive. */
typedef dnnl_memory_desc_t onednn_desc;
typedef const_dnnl_memory_desc_t onednn_const_desc;

/* Memory of these dimensions: dense in a named format, or with strides (in elements). *desc is to be NULL,
 * and stays so on failure. */
#define onednn_desc_by_tag     dnnl_memory_desc_create_with_tag
#define onednn_desc_by_strides dnnl_memory_desc_create_with_strides
#define onednn_append_eltwise  dnnl_post_ops_append_eltwise

static inline void onednn_desc_destroy(onednn_desc desc)
{
    if (desc) dnnl_memory_desc_destroy(desc);
}

static inline dnnl_status_t onednn_append_sum(dnnl_post_ops_t post_ops)
{
    return dnnl_post_ops_append_sum(post_ops, 1, 0, dnnl_data_type_undef);
}

/* Whether an implementation is one for AVX2 whose name begins with `family`. */
static inline bool onednn_is_avx2(const_dnnl_primitive_desc_t description, const char *family)
{
    const char *name = "";
    dnnl_primitive_desc_query(description, dnnl_query_impl_info_str, 0, &name);
    return strncmp(name, family, strlen(family)) == 0 && strstr(name, ":avx2");
}

/* On AVX2 3.x offers convolutions by "brgemm" first, 2.6's "jit" after them: depthwise ones by 1.2 to 1.6
 * times as fast, others by up to 1.1. So those, where they come. */
static inline dnnl_status_t onednn_prefer_jit(dnnl_primitive_desc_t *chosen)
{
    dnnl_primitive_desc_t first;
    if (!onednn_is_avx2(*chosen, "br")) return dnnl_success;
    dnnl_status_t status = dnnl_primitive_desc_clone(&first, *chosen);
    if (status) return status;
    do {
        status = dnnl_primitive_desc_next_impl(*chosen);
    } while (!status && !onednn_is_avx2(*chosen, "jit"));
    dnnl_primitive_desc_destroy(status ? *chosen : first);
    if (status) *chosen = first;
    return dnnl_success;
}

#else /* 2.x */

typedef dnnl_memory_desc_t *onednn_desc;
typedef const dnnl_memory_desc_t *onednn_const_desc;

static inline dnnl_status_t onednn_desc_copy(onednn_desc *desc, const dnnl_memory_desc_t *value)
{
    *desc = malloc(sizeof *value);
    if (!*desc) return dnnl_out_of_memory;
    **desc = *value;
    return dnnl_success;
}

static inline dnnl_status_t onednn_desc_by_tag(onednn_desc *desc, int count, const dnnl_dims_t dims,
                                               dnnl_data_type_t type, dnnl_format_tag_t tag)
{
    dnnl_memory_desc_t value;
    dnnl_status_t status = dnnl_memory_desc_init_by_tag(&value, count, dims, type, tag);
    return status ? status : onednn_desc_copy(desc, &value);
}

static inline dnnl_status_t onednn_desc_by_strides(onednn_desc *desc, int count, const dnnl_dims_t dims,
                                                   dnnl_data_type_t type, const dnnl_dims_t strides)
{
    dnnl_memory_desc_t value;
    dnnl_status_t status = dnnl_memory_desc_init_by_strides(&value, count, dims, type, strides);
    return status ? status : onednn_desc_copy(desc, &value);
}

#define onednn_desc_destroy         free
#define onednn_append_sum(post_ops) dnnl_post_ops_append_sum(post_ops, 1)
#define onednn_append_eltwise(post_ops, kind, alpha, beta)                                                   \
    dnnl_post_ops_append_eltwise(post_ops, 1, kind, alpha, beta)

#endif

/* A direct convolution, for inference. */
static inline dnnl_status_t onednn_convolution(dnnl_primitive_desc_t *created, dnnl_engine_t engine,
                                               onednn_const_desc source, onednn_const_desc weights,
                                               onednn_const_desc bias, onednn_const_desc destination,
                                               const dnnl_dims_t strides, const dnnl_dims_t pad_before,
                                               const dnnl_dims_t pad_after, const_dnnl_primitive_attr_t attr)
{
#if DNNL_VERSION_MAJOR >= 3
    const dnnl_dims_t dilation = {0};
    dnnl_status_t status = dnnl_convolution_forward_primitive_desc_create(
        created, engine, dnnl_forward_inference, dnnl_convolution_direct, source, weights, bias, destination,
        strides, dilation, pad_before, pad_after, attr);
    return status ? status : onednn_prefer_jit(created);
#else
    dnnl_convolution_desc_t operation;
    dnnl_status_t status = dnnl_convolution_forward_desc_init(&operation, dnnl_forward_inference,
                                                              dnnl_convolution_direct, source, weights, bias,
                                                              destination, strides, pad_before, pad_after);
    return status ? status : dnnl_primitive_desc_create(created, &operation, attr, engine, NULL);
#endif
}

/* The average over windows of `window` elements without padding, for inference. */
static inline dnnl_status_t onednn_average(dnnl_primitive_desc_t *created, dnnl_engine_t engine,
                                           onednn_const_desc source, onednn_const_desc destination,
                                           const dnnl_dims_t strides, const dnnl_dims_t window,
                                           const_dnnl_primitive_attr_t attr)
{
    const dnnl_dims_t none = {0};
#if DNNL_VERSION_MAJOR >= 3
    return dnnl_pooling_forward_primitive_desc_create(created, engine, dnnl_forward_inference,
                                                      dnnl_pooling_avg_exclude_padding, source, destination,
                                                      strides, window, none, none, none, attr);
#else
    dnnl_pooling_desc_t operation;
    dnnl_status_t status = dnnl_pooling_forward_desc_init(&operation, dnnl_forward_inference,
                                                          dnnl_pooling_avg_exclude_padding, source,
                                                          destination, strides, window, none, none);
    return status ? status : dnnl_primitive_desc_create(created, &operation, attr, engine, NULL);
#endif
}

/* The product of two tensors, element by element; the second's sizes of 1 stretch to the first's. */
static inline dnnl_status_t onednn_multiply(dnnl_primitive_desc_t *created, dnnl_engine_t engine,
                                            onednn_const_desc first, onednn_const_desc second,
                                            onednn_const_desc destination, const_dnnl_primitive_attr_t attr)
{
#if DNNL_VERSION_MAJOR >= 3
    return dnnl_binary_primitive_desc_create(created, engine, dnnl_binary_mul, first, second, destination,
                                             attr);
#else
    dnnl_binary_desc_t operation;
    dnnl_status_t status = dnnl_binary_desc_init(&operation, dnnl_binary_mul, first, second, destination);
    return status ? status : dnnl_primitive_desc_create(created, &operation, attr, engine, NULL);
#endif
}

/* A matrix product without a bias. */
static inline dnnl_status_t onednn_matmul(dnnl_primitive_desc_t *created, dnnl_engine_t engine,
                                          onednn_const_desc source, onednn_const_desc weights,
                                          onednn_const_desc destination, const_dnnl_primitive_attr_t attr)
{
#if DNNL_VERSION_MAJOR >= 3
    return dnnl_matmul_primitive_desc_create(created, engine, source, weights, NULL, destination, attr);
#else
    dnnl_matmul_desc_t operation;
    dnnl_status_t status = dnnl_matmul_desc_init(&operation, source, weights, NULL, destination);
    return status ? status : dnnl_primitive_desc_create(created, &operation, attr, engine, NULL);
#endif
}

#endif

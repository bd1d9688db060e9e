// A decoder-only transformer (Llama, Phi, Phi-3) over rows of any sequences: prompt chunks and single tokens
// share one pass. Each row names its sequence's memory and its position there. All else is in `Model`, which
// `decoder.py` fills and mirrors field by field.

#include "attention.h"
#include "matmul.h"

namespace {

struct Layer {
    Linear qkv, output, up, down;  // `up` is gate and up together where the model is gated
    const float *norm, *norm_bias, *mlp_norm, *mlp_norm_bias;  // null where the model has none
};

struct Model {
    int32_t format, layers, hidden, heads, kv_heads, head_dim, rotary_dim, intermediate;
    int32_t layer_norm;  // LayerNorm, else RMSNorm
    int32_t gated;       // down(silu(gate) * up), else down(gelu(up))
    int32_t window;      // tokens that a token sees, itself included; 0 for all
    float epsilon;
    const float *cosine, *sine;  // [positions, rotary_dim / 2]
    const Layer* layer;
    const float *norm, *norm_bias;
    Linear head;
};

struct Row {
    void *keys, *values;  // [layers, kv_heads, ...] as in attention.h
    int32_t position, capacity;
};

class Decoder {
public:
    Decoder(const Model& model, int max_rows, int max_positions, int threads)
        : model_(model), pool_(threads), stride_((max_positions + LANES - 1) / LANES * LANES) {
        const size_t rows = max_rows;
        const int attended = model.heads * model.head_dim;
        const int widest = std::max({model.hidden, model.intermediate, attended});
        packed_.reserve(max_rows, widest);
        hidden_.resize(rows * model.hidden);
        normed_.resize(rows * model.hidden);
        qkv_.resize(rows * (attended + 2 * model.kv_heads * model.head_dim));
        attended_.resize(rows * attended);
        up_.resize(rows * model.intermediate * (model.gated ? 2 : 1));
        scores_.resize(size_t(threads) * 4 * stride_);
    }

    // Computes `count` rows from `embeds` [count, hidden]; `logits` [outputs, vocabulary] of the rows in `which`.
    template <class F, class T>
    void forward(int count, const float* embeds, const Row* rows, int outputs, const int32_t* which,
                 float* logits) {
        std::copy_n(embeds, size_t(count) * model_.hidden, hidden_.data());
        for (int index = 0; index < model_.layers; ++index) {
            const Layer& layer = model_.layer[index];
            normalise<F>(count, layer.norm, layer.norm_bias);
            multiply<F>(pool_, layer.qkv, packed_, count, qkv_.data(), false);
            // The MLP of a parallel block reads the same normed rows, before `packed_` is used again.
            if (!layer.mlp_norm) multiply<F>(pool_, layer.up, packed_, count, up_.data(), false);
            attention<T>(count, rows, index);
            pack<F>(count, attended_.data(), model_.heads * model_.head_dim);
            multiply<F>(pool_, layer.output, packed_, count, hidden_.data(), true);
            if (layer.mlp_norm) {
                normalise<F>(count, layer.mlp_norm, layer.mlp_norm_bias);
                multiply<F>(pool_, layer.up, packed_, count, up_.data(), false);
            }
            activate<F>(count);
            multiply<F>(pool_, layer.down, packed_, count, hidden_.data(), true);
        }
        if (outputs == 0) return;
        for (int i = 0; i < outputs; ++i) {  // `which` ascends, so no row is overwritten before it is read
            std::copy_n(&hidden_[size_t(which[i]) * model_.hidden], model_.hidden, &hidden_[size_t(i) * model_.hidden]);
        }
        normalise<F>(outputs, model_.norm, model_.norm_bias);
        multiply<F>(pool_, model_.head, packed_, outputs, logits, false);
    }

    const Model& model() const { return model_; }

private:
    template <class F>
    void shape_packed(int inputs) {
        packed_.units = inputs / F::per_unit;
        packed_.groups = inputs / GROUP;
    }

    template <class F>
    void pack(int count, const float* x, int width) {
        shape_packed<F>(width);
        pool_.run(count, [&](int row, int) { pack_row(F{}, x + size_t(row) * width, width, packed_, row); });
    }

    template <class F>
    void normalise(int count, const float* weight, const float* bias) {
        const int width = model_.hidden;
        shape_packed<F>(width);
        pool_.run(count, [&](int row, int) {
            const float* x = &hidden_[size_t(row) * width];
            float* y = &normed_[size_t(row) * width];
            Floats total{}, squares{};  // in lanes, so that their order never depends on the row's address
            for (int i = 0; i < width; i += LANES) total += load(x + i);
            const float mean = model_.layer_norm ? sum(total) / width : 0.0f;
            for (int i = 0; i < width; i += LANES) squares += (load(x + i) - mean) * (load(x + i) - mean);
            const float inverse = 1.0f / std::sqrt(sum(squares) / width + model_.epsilon);
            for (int i = 0; i < width; ++i) y[i] = (x[i] - mean) * inverse * weight[i] + (bias ? bias[i] : 0.0f);
            pack_row(F{}, y, width, packed_, row);
        });
    }

    template <class F>
    void activate(int count) {
        const int width = model_.intermediate;
        shape_packed<F>(width);
        pool_.run(count, [&](int row, int) {
            float* x = &up_[size_t(row) * width * (model_.gated ? 2 : 1)];
            for (int i = 0; i < width; i += LANES) {
                const Floats gate = load(x + i);
                // gelu's tanh approximation is gate * sigmoid(2 sqrt(2 / pi) (gate + 0.044715 gate^3))
                const Floats inner = model_.gated ? gate : 1.5957691216f * (gate + 0.044715f * gate * gate * gate);
                const Floats value = gate / (1.0f + exponential(-inner));
                store(x + i, model_.gated ? value * load(x + width + i) : value);
            }
            pack_row(F{}, x, width, packed_, row);
        });
    }

    void rotate(float* x, int position) const {
        const int half = model_.rotary_dim / 2;
        const float* cosine = model_.cosine + size_t(position) * half;
        const float* sine = model_.sine + size_t(position) * half;
        for (int i = 0; i < half; ++i) {
            const float a = x[i], b = x[i + half];
            x[i] = a * cosine[i] - b * sine[i];
            x[i + half] = b * cosine[i] + a * sine[i];
        }
    }

    template <class T>
    void attention(int count, const Row* rows, int layer) {
        const int dim = model_.head_dim, kv_heads = model_.kv_heads, group = model_.heads / kv_heads;
        const int width = (model_.heads + 2 * kv_heads) * dim;
        const auto memory = [&](void* base, const Row& row, int head) {
            return static_cast<T*>(base) + (size_t(layer) * kv_heads + head) * row.capacity * dim;
        };
        pool_.run(count, [&](int index, int) {
            const Row& row = rows[index];
            float* queries = &qkv_[size_t(index) * width];
            float *keys = queries + model_.heads * dim, *values = keys + kv_heads * dim;
            for (int head = 0; head < model_.heads + kv_heads; ++head) rotate(queries + head * dim, row.position);
            for (int head = 0; head < kv_heads; ++head) {
                remember(memory(row.keys, row, head), memory(row.values, row, head), row.position,
                         keys + head * dim, values + head * dim, dim);
            }
        });
        const float scale = 1.0f / std::sqrt(float(dim));
        pool_.run(count * kv_heads, [&](int task, int thread) {
            const int index = task / kv_heads, head = task % kv_heads;
            const Row& row = rows[index];
            const int tokens = row.position + 1;
            const int first = model_.window ? std::max(0, tokens - model_.window) : 0;
            attend<T>(group, &qkv_[size_t(index) * width + size_t(head) * group * dim],
                      memory(row.keys, row, head), memory(row.values, row, head), first, tokens, dim, scale,
                      &scores_[size_t(thread) * 4 * stride_], stride_,
                      &attended_[(size_t(index) * model_.heads + size_t(head) * group) * dim]);
        });
    }

    const Model model_;
    ThreadPool pool_;
    const int stride_;
    Packed packed_;
    std::vector<float> hidden_, normed_, qkv_, attended_, up_, scores_;
};

}  // namespace

extern "C" {

// The model's arrays stay the caller's and must outlive the decoder. Null if memory or threads run out.
Decoder* decoder_new(const Model* model, int max_rows, int max_positions, int threads) try {
    return new Decoder(*model, max_rows, max_positions, threads);
} catch (...) {
    return nullptr;
}

void decoder_delete(Decoder* decoder) { delete decoder; }

void decoder_forward(Decoder* decoder, int count, const float* embeds, const Row* rows, int outputs,
                     const int32_t* which, float* logits) {
    switch (Format(decoder->model().format)) {
        case Format::FLOAT32:
            return decoder->forward<Float32, float>(count, embeds, rows, outputs, which, logits);
        case Format::BFLOAT16:
            return decoder->forward<BFloat16, uint16_t>(count, embeds, rows, outputs, which, logits);
        case Format::INT8:
            return decoder->forward<Int8, uint16_t>(count, embeds, rows, outputs, which, logits);
    }
}
}

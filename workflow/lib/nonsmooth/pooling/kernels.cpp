// Exact max pooling with the gradient of its hybrid Jacobian or PyTorch's own, and composed max pooling, on a CPU: the
// bits of exact.py, composed.py and PyTorch in a few passes over memory.
//
// The forward pass leaves a code per window, which is all that the gradient needs: a bit for every position of the
// kernel, in scan order, that holds a maximum. The lowest one is PyTorch's argmax. A window with NaNs has the bit of
// the last one alone.
//
// A few planes at a time are taken apart by the strides (space to depth): the value at row y and column x of a padded
// plane goes to row y / stride_height, column x / stride_width of phase (y mod stride_height, x mod stride_width). What
// neighbouring windows see at one position of the kernel then lies side by side, and the loops over windows vectorise
// whatever the geometry.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

namespace {

// In the order of nonsmooth.pooling.kernels.Shape.
struct Shape {
    int64_t planes, height, width, rows, columns;
    int64_t kernel_height, kernel_width, stride_height, stride_width;
    int64_t top, left;  // padding
    int64_t dilation_height, dilation_width, threads;

    int64_t positions() const { return kernel_height * kernel_width; }
    bool overlaps() const {
        return (kernel_height - 1) * dilation_height >= stride_height ||
               (kernel_width - 1) * dilation_width >= stride_width;
    }
};

// ---------------------------------------------------------------------------------------------------- layout

// How the values of a block of planes lie once they are taken apart, in cells. Windows are numbered by the cell of
// their first position in its phase. Where none begins they are computed, too, and never read.
struct Layout {
    const Shape s;
    const int64_t rows, columns, planes, windows, cells;

    explicit Layout(const Shape& s)
        : s(s),
          rows(std::max((s.top + s.height - 1) / s.stride_height + 1, s.rows + down(s.kernel_height - 1))),
          columns(std::max((s.left + s.width - 1) / s.stride_width + 1, s.columns + right(s.kernel_width - 1))),
          planes(std::max<int64_t>(1, 256 / (rows * columns))),  // a block fits into the first-level cache
          windows(planes * rows * columns),
          cells(s.stride_height * s.stride_width * windows  // and what the last windows see
                + down(s.kernel_height - 1) * columns + right(s.kernel_width - 1)) {}

    int64_t down(int64_t i) const { return i * s.dilation_height / s.stride_height; }
    int64_t right(int64_t j) const { return j * s.dilation_width / s.stride_width; }

    // The cell that window 0 sees at a position of the kernel; window w sees the w-th after it.
    int64_t at(int64_t position) const {
        const int64_t i = position / s.kernel_width, j = position % s.kernel_width;
        const int64_t y = i * s.dilation_height % s.stride_height, x = j * s.dilation_width % s.stride_width;
        return (y * s.stride_width + x) * windows + down(i) * columns + right(j);
    }

    // Where the rows of `count` planes lie, one after another, before their columns are taken apart: calls
    // visit(offset there, offset in memory) for each. Padding and what lies between planes is not visited.
    template <class Visit> void for_each_row(int64_t count, Visit visit) const {
        for (int64_t plane = 0; plane < count; ++plane)
            for (int64_t y0 = 0; y0 < std::min(s.stride_height, s.height); ++y0) {
                const int64_t y = y0 + s.top;  // of the first row in this phase
                int64_t line = y % s.stride_height * windows + (plane * rows + y / s.stride_height) * columns;
                for (int64_t row = y0; row < s.height; row += s.stride_height, line += columns)
                    visit(line * s.stride_width + s.left, (plane * s.height + row) * s.width);
            }
    }

    // Calls visit(cell, offset there) for every cell of that phase of rows; in long loops, which vectorise.
    template <class Visit> void for_each_cell(Visit visit) const {
        const auto walk = [&](const auto stride) {
            for (int64_t y = 0; y < s.stride_height; ++y)
                for (int64_t x = 0; x < stride; ++x)
                    for (int64_t w = 0; w < windows; ++w)
                        visit((y * stride + x) * windows + w, (y * windows + w) * stride + x);
        };
        switch (s.stride_width) {
            case 1: return walk(std::integral_constant<int64_t, 1>());
            case 2: return walk(std::integral_constant<int64_t, 2>());
            default: return walk(s.stride_width);
        }
    }

    // Calls visit(first window in the layout, offset in memory, length) for every run of the windows of `count` planes.
    template <class Visit> void for_each_run(int64_t count, Visit visit) const {
        if (rows == s.rows && columns == s.columns) return visit(0, 0, count * rows * columns);
        for (int64_t plane = 0; plane < count; ++plane)
            for (int64_t row = 0; row < s.rows; ++row)
                visit((plane * rows + row) * columns, (plane * s.rows + row) * s.columns, s.columns);
    }
};

// ---------------------------------------------------------------------------------------------------- types

template <class To, class From> To bits_of(From value) {
    static_assert(sizeof(To) == sizeof(From));
    To bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

// A floating type by its bits, as a signed integer.
template <class Bits_, int significand> struct Type {
    using Bits = Bits_;
    static constexpr Bits lowest = std::numeric_limits<Bits>::min(), highest = std::numeric_limits<Bits>::max();
    static constexpr Bits infinity = Bits(highest >> significand << significand);

    static bool is_finite(Bits value) { return Bits(value & highest) < infinity; }
    static bool is_nan(Bits value) { return Bits(value & highest) > infinity; }
    // Grows with the value, above `lowest`. The same for both zeros, and `highest` for every NaN.
    static Bits key(Bits value) {
        const Bits size = Bits(value & highest);
        return size > infinity ? highest : value < 0 ? Bits(-size) : value;
    }
    // What PyTorch's pooling returns for a value that it found.
    static Bits returned(Bits value) { return value; }
};

struct Double : Type<int64_t, 52> {
    static double rounded(double value) { return value; }
    static double widen(Bits value) { return bits_of<double>(value); }
    static Bits narrow(double value) { return bits_of<Bits>(value); }
};

struct Single : Type<int32_t, 23> {
    static float rounded(float value) { return value; }
    static double widen(Bits value) { return bits_of<float>(value); }
    static Bits narrow(double value) { return bits_of<Bits>(float(value)); }
};

// By integers, since compilers vectorise these.
template <int significand> struct Sixteen : Type<int16_t, significand> {
    static constexpr int shift = 52 - significand;
    static constexpr int64_t one = int64_t(1) << 52;  // in the exponent of a double
    // The exponent of infinities and NaNs, and what added to an exponent makes it that of a double.
    static constexpr int64_t largest = (int64_t(1) << (15 - significand)) - 1, bias = 1023 - largest / 2;

    static double widen(int16_t value) {
        const int64_t size = int64_t(value & 0x7fff) << shift, exponent = size >> 52;
        const double subnormal = bits_of<double>(size + (bias + 1) * one) - bits_of<double>((bias + 1) * one);
        const int64_t normal = size + (exponent == largest ? 2047 - largest : bias) * one;
        const int64_t bits = exponent == 0 ? bits_of<int64_t>(subnormal) : normal;
        return bits_of<double>(bits | int64_t(value < 0) << 63);
    }

    // Rounded once: the sum with a power of two has no bit below the last one of the 16-bit number.
    static int16_t narrow(double value) {
        const int64_t size = bits_of<int64_t>(value) & std::numeric_limits<int64_t>::max();
        const int64_t limit = (bias + largest) * one, clamped = size < limit ? size : limit;
        const int64_t normal = (clamped >> 52) - bias, exponent = normal > 1 ? normal : 1;
        const int64_t power = (exponent + bias + shift) * one;
        const int64_t rounded = bits_of<int64_t>(bits_of<double>(clamped) + bits_of<double>(power)) - power;
        const int64_t number = size > 2047 * one ? size >> shift & 0x7fff : rounded + ((exponent - 1) << significand);
        return int16_t(number | (bits_of<int64_t>(value) < 0 ? 0x8000 : 0));
    }
};

struct Half : Sixteen<10> {
    // As `widen(narrow(value))`, of more numbers at once.
    static float rounded(float value) {
        const int32_t bits = bits_of<int32_t>(value), size = bits & 0x7fffffff;
        const int32_t normal = (size + 0xfff + (size >> 13 & 1)) & ~0x1fff;
        const int32_t subnormal = bits_of<int32_t>(bits_of<float>(size) + 0.5f - 0.5f);  // whose spacing is 2^-24
        const int32_t number = size < 0x38800000 ? subnormal : normal >= 0x47800000 ? 0x7f800000 : normal;
        return bits_of<float>((size > 0x7f800000 ? size : number) | (bits & ~0x7fffffff));
    }
    static Bits returned(Bits value) { return is_nan(value) ? Bits(value | 0x200) : value; }
};

struct Brain : Sixteen<7> {
    static float rounded(float value) {
        const int32_t bits = bits_of<int32_t>(value), size = bits & 0x7fffffff;
        const int32_t number = (size + 0x7fff + (size >> 16 & 1)) & ~0xffff;
        return bits_of<float>((size > 0x7f800000 ? size : number) | (bits & ~0x7fffffff));
    }
    static Bits returned(Bits value) { return is_nan(value) ? Bits(0x7fc0) : value; }
};

// ---------------------------------------------------------------------------------------------------- rules

// What a window with the gradient g and so many maxima sends to its argmax, to each other maximum, and to the rest, by
// the hybrid Jacobian in float64. Adding +0 turns -0 into +0, which is what PyTorch's accumulation into zeros gives.
template <class T> struct Exact {
    using Bits = typename T::Bits;
    const double beta;
    static constexpr bool has_others = true, has_rest = false, minds_signs_of_zeros = false;

    Bits output(Bits maximum) const { return T::returned(maximum); }
    uint16_t code(Bits code, Bits) const { return uint16_t(code); }
    double to_argmax(double g, int maxima) const { return (maxima - beta * (maxima - 1)) * g / maxima + 0.0; }
    double to_others(double g, int maxima) const { return g * beta / maxima + 0.0; }
};

// PyTorch's own: the gradient goes to the argmax as it is.
struct Native {
    static constexpr bool has_others = false, has_rest = false;
};

// As `Exact` by the composition of two poolings in the working type: every operation is computed in float32, of float64 in
// float64, and rounded. The rest is multiplied by 0, which is NaN where the product overflowed, and all of a NaN's window
// is.
template <class T> struct Composed {
    using Bits = typename T::Bits;
    using Wide = std::conditional_t<std::is_same_v<T, Double>, double, float>;
    const Wide beta, remainder;
    static constexpr bool has_others = true, has_rest = true, minds_signs_of_zeros = true;

    explicit Composed(double beta) : beta(Wide(beta)), remainder(Wide(1 - beta)) {}

    Bits output(Bits maximum) const {
        const Wide value = Wide(T::widen(maximum));
        return T::narrow(T::rounded(beta * value) + T::rounded(remainder * value));
    }
    uint16_t code(Bits code, Bits maximum) const { return T::is_nan(maximum) ? uint16_t(0) : uint16_t(code); }
    // Without a maximum 0 / 0.
    Wide share(double g, int maxima) const {
        return T::rounded(T::rounded(beta * Wide(g)) * Wide(maxima > 0) / Wide(maxima));
    }
    double to_argmax(double g, int maxima) const {
        const Wide alone = T::rounded(remainder * Wide(g)) + Wide(0);
        return share(g, maxima) + alone;
    }
    double to_others(double g, int maxima) const { return share(g, maxima) + Wide(0); }
    double to_rest(double g, int maxima) const { return share(g, maxima) * Wide(0) + Wide(0); }
};

// ---------------------------------------------------------------------------------------------------- passes

// Every window looks at one more position, where it sees `values` with these `keys`.
template <class T, class Bits>
void look(int64_t n, int64_t position, const Bits* __restrict values, const Bits* __restrict keys,
          Bits* __restrict best, Bits* __restrict best_keys, Bits* __restrict codes) {
    const Bits bit = Bits(1 << position);
    for (int64_t w = 0; w < n; ++w) {
        const Bits value = values[w], key = keys[w], old = best[w], old_key = best_keys[w], code = codes[w];
        const bool is_better = (key > old_key) | (key == T::highest), is_maximum = key >= old_key;
        codes[w] = Bits((is_better ? 0 : code) | (is_maximum ? bit : 0));
        best[w] = is_better ? value : old;
        best_keys[w] = is_maximum ? key : old_key;
    }
}

// `rule` makes an output of a maximum, and keeps or changes the code. Returns whether a -0 was seen, if it minds.
template <class T, class Rule>
bool forward(const typename T::Bits* input, typename T::Bits* output, uint16_t* codes, const Shape& s,
             const Rule rule) {
    using Bits = typename T::Bits;
    const Layout layout(s);
    std::vector<bool> is_value(layout.cells), is_value_in_line(layout.cells);
    layout.for_each_row(layout.planes, [&](int64_t line, int64_t) {
        std::fill_n(is_value_in_line.begin() + line, s.width, true);
    });
    layout.for_each_cell([&](int64_t cell, int64_t line) { is_value[cell] = is_value_in_line[line]; });
    std::vector<int64_t> empty;  // padding, and what lies between planes
    for (int64_t cell = 0; cell < layout.cells; ++cell)
        if (!is_value[cell]) empty.push_back(cell);
    bool has_negative_zero = false;
#pragma omp parallel num_threads(s.threads) reduction(| : has_negative_zero)
    {
        std::vector<Bits> lines(layout.cells), values(layout.cells), keys(layout.cells);
        std::vector<Bits> best(layout.windows), best_keys(layout.windows), found(layout.windows);
#pragma omp for schedule(static)
        for (int64_t first = 0; first < s.planes; first += layout.planes) {
            const int64_t count = std::min(layout.planes, s.planes - first), n = count * layout.rows * layout.columns;
            layout.for_each_row(count, [&](int64_t line, int64_t offset) {
                std::copy_n(input + first * s.height * s.width + offset, s.width, &lines[line]);
            });
            const Bits* const __restrict from = lines.data();
            Bits* const __restrict cells = values.data();
            layout.for_each_cell([=](int64_t cell, int64_t line) { cells[cell] = from[line]; });
            std::transform(values.begin(), values.end(), keys.begin(), T::key);
            for (const int64_t cell : empty) keys[cell] = T::lowest;
            if constexpr (Rule::minds_signs_of_zeros)
                for (const Bits value : values) has_negative_zero |= value == T::lowest;
            std::fill_n(best_keys.begin(), n, T::lowest);
            for (int64_t position = 0; position < s.positions(); ++position) {
                const int64_t at = layout.at(position);
                look<T>(n, position, &values[at], &keys[at], best.data(), best_keys.data(), found.data());
            }
            layout.for_each_run(count, [&](int64_t window, int64_t offset, int64_t length) {
                offset += first * s.rows * s.columns;
                for (int64_t w = 0; w < length; ++w) {
                    output[offset + w] = rule.output(best[window + w]);
                    codes[offset + w] = rule.code(found[window + w], best[window + w]);
                }
            });
        }
    }
    return has_negative_zero;
}

// The maxima in a code.
inline int count(int code) {
    int maxima = 0;
    for (int position = 0; position < 16; ++position) maxima += code >> position & 1;
    return maxima;
}

// What windows send, and codes of where to.
template <class T, class Cell> struct Sent {
    std::vector<Cell> to_argmax, to_others, to_rest;
    std::vector<uint16_t> argmax, others, rest;
    bool sends_to_rest = false;

    Sent(int64_t windows, bool has_rest)
        : to_argmax(windows), to_others(windows), to_rest(has_rest ? windows : 0), argmax(windows), others(windows),
          rest(has_rest ? windows : 0) {}

    template <class Rule>
    void set(int64_t n, const Rule rule, const typename T::Bits* __restrict gradients,
             const uint16_t* __restrict codes) {
        const auto rounded = [](double value) {
            if constexpr (std::is_same_v<Cell, double>) return value;
            else return T::narrow(value);
        };
        Cell* const __restrict first = to_argmax.data();
        Cell* const __restrict second = to_others.data();
        if constexpr (Rule::has_others)
            for (int64_t w = 0; w < n; ++w) {
                const int code = codes[w], maxima = count(code);
                const double g = T::widen(gradients[w]);
                first[w] = rounded(rule.to_argmax(g, maxima));
                second[w] = rounded(rule.to_others(g, maxima));
                argmax[w] = uint16_t(code & -code);
                others[w] = uint16_t(code & (code - 1));
            }
        else
            for (int64_t w = 0; w < n; ++w) {
                first[w] = gradients[w] == T::lowest ? Cell(0) : gradients[w];
                argmax[w] = uint16_t(codes[w] & -codes[w]);
            }
        if constexpr (Rule::has_rest) {
            bool is_finite = true;  // and so the rest gets 0
            for (int64_t w = 0; w < n; ++w) is_finite &= T::is_finite(second[w]);
            for (int64_t w = 0; w < n && !is_finite; ++w) {
                to_rest[w] = rounded(rule.to_rest(T::widen(gradients[w]), count(codes[w])));
                rest[w] = uint16_t(~codes[w]);
            }
            sends_to_rest = !is_finite;
        }
    }
};

// Every window with this position in its code sends its share there.
template <class Cell>
void send(int64_t n, int64_t position, const uint16_t* __restrict codes, const Cell* __restrict shares,
          Cell* __restrict cells) {
    for (int64_t w = 0; w < n; ++w) {
        const Cell share = shares[w], sent = codes[w] & 1 << position ? share : Cell(0);
        if constexpr (std::is_same_v<Cell, double>) cells[w] += sent;
        else cells[w] |= sent;
    }
}

// A cell is a value's gradient. Where windows overlap, what they send is added in float64 and rounded then. Elsewhere
// one window at most sends something, which is rounded before.
template <class T, class Cell, class Rule>
void backward(const typename T::Bits* gradient, const uint16_t* codes, typename T::Bits* result, const Shape& s,
              const Rule rule) {
    using Bits = typename T::Bits;
    const Layout layout(s);
    const auto rounded = [](Cell cell) {
        if constexpr (std::is_same_v<Cell, double>) return T::narrow(cell);
        else return cell;
    };
#pragma omp parallel num_threads(s.threads)
    {
        std::vector<Bits> gradients(layout.windows), lines(layout.cells);
        std::vector<uint16_t> found(layout.windows);
        std::vector<Cell> sums(layout.cells);
        Sent<T, Cell> sent(layout.windows, Rule::has_rest);
#pragma omp for schedule(static)
        for (int64_t first = 0; first < s.planes; first += layout.planes) {
            const int64_t count = std::min(layout.planes, s.planes - first), n = count * layout.rows * layout.columns;
            layout.for_each_run(count, [&](int64_t window, int64_t offset, int64_t length) {
                offset += first * s.rows * s.columns;
                std::copy_n(gradient + offset, length, &gradients[window]);
                std::copy_n(codes + offset, length, &found[window]);
            });
            sent.set(n, rule, gradients.data(), found.data());
            std::fill(sums.begin(), sums.end(), Cell(0));
            if constexpr (Rule::has_others)
                for (int64_t position = 0; position < s.positions(); ++position)
                    send(n, position, sent.others.data(), sent.to_others.data(), &sums[layout.at(position)]);
            // Backwards, so that windows add to a value in scan order.
            for (int64_t position = s.positions() - 1; position >= 0; --position)
                send(n, position, sent.argmax.data(), sent.to_argmax.data(), &sums[layout.at(position)]);
            if (sent.sends_to_rest)
                for (int64_t position = 0; position < s.positions(); ++position)
                    send(n, position, sent.rest.data(), sent.to_rest.data(), &sums[layout.at(position)]);
            Bits* const __restrict to = lines.data();
            const Cell* const __restrict cells = sums.data();
            layout.for_each_cell([=](int64_t cell, int64_t line) { to[line] = rounded(cells[cell]); });
            layout.for_each_row(count, [&](int64_t line, int64_t offset) {
                std::copy_n(&lines[line], s.width, result + first * s.height * s.width + offset);
            });
        }
    }
}

}  // namespace

#define EXPORT(name, T)                                                                                              \
    extern "C" void forward_##name(const void* input, void* output, void* codes, const Shape* shape) {               \
        forward<T>((const T::Bits*)input, (T::Bits*)output, (uint16_t*)codes, *shape, Exact<T>{0});                 \
    }                                                                                                                \
    extern "C" void backward_##name(                                                                                 \
        const void* gradient, const void* codes, void* result, const Shape* shape, double beta) {                    \
        (shape->overlaps() ? backward<T, double, Exact<T>> : backward<T, T::Bits, Exact<T>>)(                        \
            (const T::Bits*)gradient, (const uint16_t*)codes, (T::Bits*)result, *shape, Exact<T>{beta});             \
    }                                                                                                                \
    extern "C" void native_backward_##name(                                                                          \
        const void* gradient, const void* codes, void* result, const Shape* shape) {                                 \
        backward<T, T::Bits>(                                                                                        \
            (const T::Bits*)gradient, (const uint16_t*)codes, (T::Bits*)result, *shape, Native());                   \
    }                                                                                                                \
    extern "C" bool composed_##name(                                                                                 \
        const void* input, void* output, void* codes, const Shape* shape, double beta) {                             \
        return forward<T>((const T::Bits*)input, (T::Bits*)output, (uint16_t*)codes, *shape, Composed<T>(beta));     \
    }                                                                                                                \
    extern "C" void composed_backward_##name(                                                                        \
        const void* gradient, const void* codes, void* result, const Shape* shape, double beta) {                    \
        backward<T, T::Bits>(                                                                                        \
            (const T::Bits*)gradient, (const uint16_t*)codes, (T::Bits*)result, *shape, Composed<T>(beta));          \
    }
EXPORT(float16, Half)
EXPORT(bfloat16, Brain)
EXPORT(float32, Single)
EXPORT(float64, Double)

/* AES-GCM and single AES blocks for short QUIC packets, with the processor's AES and carry-less multiplication instructions.
 *
 * NIST SP 800-38D (GCM), FIPS 197 (AES), RFC 9001 §5.3, §5.4.3. libcrypto does the same, at the price of a few hundred ns and some
 * cold cache lines for each small packet; here all that a key needs lies in one struct. Comes in: keys, nonces, the caller's
 * buffers. Goes out: the same bytes as libcrypto's, which the tests compare. It must never branch on, or address by, anything
 * secret (the instructions used take the same time for all values), allocate, or give out plain text that is not authentic. Where
 * the processor lacks the instructions, or the build leaves this code out, tsq_aes_available() is 0 and nothing else may be called.
 */
#ifndef TSQ_AESGCM_H
#define TSQ_AESGCM_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { TSQ_MOST_ROUNDS = 14, TSQ_POWERS = 4, TSQ_LANES = 8 };

/* Round keys; rounds is 10 or 14, and 0 for a key that is not there. What a short key leaves unused comes last. */
typedef struct {
    int rounds;
    uint8_t keys[TSQ_MOST_ROUNDS + 1][16];
} tsq_aes_key;

/* powers[i]: H^(4-i) times x, bytes reversed, as tsq_multiply() takes it. */
typedef struct {
    uint8_t powers[TSQ_POWERS][16];
    tsq_aes_key aes;
} tsq_gcm_key;

/* 0: a build that leaves AES to libcrypto (setup.py). */
#ifndef TSQ_OWN_AES
#define TSQ_OWN_AES 1
#endif

#if TSQ_OWN_AES && defined(__x86_64__) && defined(__GNUC__)

#include <immintrin.h>

/* Not every extension that includes this uses all of it. */
#define TSQ_TARGET __attribute__((unused, target("aes,pclmul,avx")))
#define TSQ_INLINE static inline __attribute__((always_inline, target("aes,pclmul,avx")))

__attribute__((unused)) static int tsq_aes_available(void)
{
    return __builtin_cpu_supports("aes") && __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("avx");
}

/* So that the lanes stay in registers. */
#define TSQ_UNROLL _Pragma("GCC unroll 8")

TSQ_INLINE __m128i tsq_load(const void *at)
{
    return _mm_loadu_si128((const __m128i *) at);
}

TSQ_INLINE void tsq_store(void *at, __m128i value)
{
    _mm_storeu_si128((__m128i *) at, value);
}

/* The last, incomplete block of a message, filled up with zeros. */
TSQ_INLINE __m128i tsq_load_part(const uint8_t *at, size_t size)
{
    uint8_t block[16] = {0};
    memcpy(block, at, size);
    return tsq_load(block);
}

TSQ_INLINE __m128i tsq_reverse(__m128i block)
{
    return _mm_shuffle_epi8(block, _mm_set_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
}

/* ------------------------------------------------------------------------------------------------------------ AES */

/* key ^ (key << 32) ^ (key << 64) ^ (key << 96): FIPS 197 §5.2, four words of the schedule at a time. */
TSQ_INLINE __m128i tsq_spread(__m128i key)
{
    key = _mm_xor_si128(key, _mm_slli_si128(key, 4));
    return _mm_xor_si128(key, _mm_slli_si128(key, 8));
}

#define TSQ_EXPAND_128(round, constant)                                                                                  \
    key = _mm_xor_si128(tsq_spread(key), _mm_shuffle_epi32(_mm_aeskeygenassist_si128(key, constant), 0xff));            \
    tsq_store(out->keys[round], key)

#define TSQ_EXPAND_256_EVEN(round, constant)                                                                             \
    low = _mm_xor_si128(tsq_spread(low), _mm_shuffle_epi32(_mm_aeskeygenassist_si128(high, constant), 0xff));           \
    tsq_store(out->keys[round], low)

#define TSQ_EXPAND_256_ODD(round)                                                                                        \
    high = _mm_xor_si128(tsq_spread(high), _mm_shuffle_epi32(_mm_aeskeygenassist_si128(low, 0), 0xaa));                 \
    tsq_store(out->keys[round], high)

/* size: 16 or 32 bytes. */
TSQ_TARGET static void tsq_aes_set(tsq_aes_key *out, const uint8_t *data, int size)
{
    if (size == 16) {
        __m128i key = tsq_load(data);
        out->rounds = 10;
        tsq_store(out->keys[0], key);
        TSQ_EXPAND_128(1, 0x01);
        TSQ_EXPAND_128(2, 0x02);
        TSQ_EXPAND_128(3, 0x04);
        TSQ_EXPAND_128(4, 0x08);
        TSQ_EXPAND_128(5, 0x10);
        TSQ_EXPAND_128(6, 0x20);
        TSQ_EXPAND_128(7, 0x40);
        TSQ_EXPAND_128(8, 0x80);
        TSQ_EXPAND_128(9, 0x1b);
        TSQ_EXPAND_128(10, 0x36);
    } else {
        __m128i low = tsq_load(data), high = tsq_load(data + 16);
        out->rounds = 14;
        tsq_store(out->keys[0], low);
        tsq_store(out->keys[1], high);
        TSQ_EXPAND_256_EVEN(2, 0x01);
        TSQ_EXPAND_256_ODD(3);
        TSQ_EXPAND_256_EVEN(4, 0x02);
        TSQ_EXPAND_256_ODD(5);
        TSQ_EXPAND_256_EVEN(6, 0x04);
        TSQ_EXPAND_256_ODD(7);
        TSQ_EXPAND_256_EVEN(8, 0x08);
        TSQ_EXPAND_256_ODD(9);
        TSQ_EXPAND_256_EVEN(10, 0x10);
        TSQ_EXPAND_256_ODD(11);
        TSQ_EXPAND_256_EVEN(12, 0x20);
        TSQ_EXPAND_256_ODD(13);
        TSQ_EXPAND_256_EVEN(14, 0x40);
    }
}

/* One block: the mask of header protection. */
TSQ_TARGET static void tsq_aes_block(const tsq_aes_key *key, const uint8_t *in, uint8_t *out)
{
    __m128i block = _mm_xor_si128(tsq_load(in), tsq_load(key->keys[0]));
    int round;
    for (round = 1; round < key->rounds; round++)
        block = _mm_aesenc_si128(block, tsq_load(key->keys[round]));
    tsq_store(out, _mm_aesenclast_si128(block, tsq_load(key->keys[round])));
}

/* Key stream of the counters first, first + 1, ... first + 7: the eight take hardly longer than one. */
TSQ_INLINE void tsq_key_stream(const tsq_aes_key *key, const uint8_t *nonce, uint32_t first, __m128i *stream)
{
    uint8_t initial[16] = {0};
    __m128i round_key = tsq_load(key->keys[0]), base;
    int lane, round;
    memcpy(initial, nonce, 12);
    base = tsq_load(initial);
    TSQ_UNROLL
    for (lane = 0; lane < TSQ_LANES; lane++)
        stream[lane] = _mm_xor_si128(_mm_insert_epi32(base, (int) __builtin_bswap32(first + (uint32_t) lane), 3), round_key);
    for (round = 1; round < key->rounds; round++) {
        round_key = tsq_load(key->keys[round]);
        TSQ_UNROLL
        for (lane = 0; lane < TSQ_LANES; lane++)
            stream[lane] = _mm_aesenc_si128(stream[lane], round_key);
    }
    round_key = tsq_load(key->keys[round]);
    TSQ_UNROLL
    for (lane = 0; lane < TSQ_LANES; lane++)
        stream[lane] = _mm_aesenclast_si128(stream[lane], round_key);
}

/* ---------------------------------------------------------------------------------------------------------- GHASH */

/* Elements of GF(2^128) have their bytes reversed here, so that bit 127 of a register is the coefficient of x^0 (SP 800-38D §6.3).
 * A product of such elements comes out one bit too low: the key's powers are multiplied by x beforehand to make up for it. */
typedef struct {
    __m128i low, middle, high;
} tsq_product;

#define TSQ_POLYNOMIAL _mm_set_epi64x((long long) 0xc200000000000000ULL, 1)

TSQ_INLINE void tsq_multiply(tsq_product *sum, __m128i value, __m128i power)
{
    sum->low = _mm_xor_si128(sum->low, _mm_clmulepi64_si128(value, power, 0x00));
    sum->high = _mm_xor_si128(sum->high, _mm_clmulepi64_si128(value, power, 0x11));
    sum->middle = _mm_xor_si128(
        sum->middle, _mm_xor_si128(_mm_clmulepi64_si128(value, power, 0x01), _mm_clmulepi64_si128(value, power, 0x10)));
}

/* A sum of products modulo x^128 + x^7 + x^2 + x + 1, in two steps of 64 bits. */
TSQ_INLINE __m128i tsq_reduce(tsq_product sum)
{
    __m128i folded = _mm_clmulepi64_si128(TSQ_POLYNOMIAL, sum.low, 0x01);
    __m128i middle = _mm_xor_si128(_mm_xor_si128(sum.middle, _mm_shuffle_epi32(sum.low, 0x4e)), folded);
    folded = _mm_clmulepi64_si128(TSQ_POLYNOMIAL, middle, 0x01);
    return _mm_xor_si128(_mm_xor_si128(sum.high, _mm_shuffle_epi32(middle, 0x4e)), folded);
}

/* value times x. */
TSQ_INLINE __m128i tsq_double(__m128i value)
{
    __m128i carries = _mm_srai_epi32(_mm_shuffle_epi32(value, 0xd3), 31);
    carries = _mm_and_si128(carries, _mm_set_epi64x((long long) 0xc200000000000001ULL, 1));
    return _mm_xor_si128(_mm_add_epi64(value, value), carries);
}

/* One more block of the message that is hashed. left: blocks from this one to the end of its group of at most four. */
typedef struct {
    tsq_product sum;
    __m128i state;
    int left;
} tsq_hash;

TSQ_INLINE void tsq_hash_block(tsq_hash *hash, const tsq_gcm_key *key, __m128i block)
{
    block = tsq_reverse(block);
    if (hash->left == TSQ_POWERS)
        block = _mm_xor_si128(block, hash->state);
    tsq_multiply(&hash->sum, block, tsq_load(key->powers[TSQ_POWERS - hash->left]));
    if (--hash->left == 0) {
        hash->state = tsq_reduce(hash->sum);
        hash->sum.low = hash->sum.middle = hash->sum.high = _mm_setzero_si128();
        hash->left = TSQ_POWERS;
    }
}

/* GHASH of associated data and cipher text, with their lengths (SP 800-38D §7.1, step 5), bytes in their usual order. */
TSQ_INLINE __m128i tsq_ghash(const tsq_gcm_key *key, const uint8_t *header, size_t header_size, const uint8_t *text, size_t size)
{
    size_t blocks = (header_size + 15) / 16 + (size + 15) / 16 + 1, at;
    __m128i lengths = _mm_set_epi64x((long long) (header_size * 8), (long long) (size * 8));
    tsq_hash hash;
    hash.state = hash.sum.low = hash.sum.middle = hash.sum.high = _mm_setzero_si128();
    /* The first group is the short one; of an empty state nothing is lost when it is not added. */
    hash.left = blocks % TSQ_POWERS ? (int) (blocks % TSQ_POWERS) : TSQ_POWERS;
    for (at = 0; at + 16 <= header_size; at += 16)
        tsq_hash_block(&hash, key, tsq_load(header + at));
    if (at < header_size)
        tsq_hash_block(&hash, key, tsq_load_part(header + at, header_size - at));
    for (at = 0; at + 16 <= size; at += 16)
        tsq_hash_block(&hash, key, tsq_load(text + at));
    if (at < size)
        tsq_hash_block(&hash, key, tsq_load_part(text + at, size - at));
    tsq_hash_block(&hash, key, tsq_reverse(lengths));
    return tsq_reverse(hash.state);
}

/* -------------------------------------------------------------------------------------------------------- AES-GCM */

/* size: 16 or 32 bytes. */
TSQ_TARGET static void tsq_gcm_set(tsq_gcm_key *out, const uint8_t *data, int size)
{
    const uint8_t zeros[16] = {0};
    uint8_t block[16];
    __m128i first, power;
    int i;
    tsq_aes_set(&out->aes, data, size);
    tsq_aes_block(&out->aes, zeros, block);
    first = power = tsq_double(tsq_reverse(tsq_load(block)));
    tsq_store(out->powers[TSQ_POWERS - 1], power);
    for (i = TSQ_POWERS - 2; i >= 0; i--) {
        tsq_product product = {_mm_setzero_si128(), _mm_setzero_si128(), _mm_setzero_si128()};
        tsq_multiply(&product, power, first);
        power = tsq_reduce(product);
        tsq_store(out->powers[i], power);
    }
}

/* out = in ^ key stream, from counter 2 on (counter 1 is the tag's); `stream` holds the first eight already. */
TSQ_INLINE void tsq_cover(
    const tsq_gcm_key *key, const uint8_t *nonce, __m128i *stream, const uint8_t *in, uint8_t *out, size_t size)
{
    size_t at;
    int lane = 1;
    uint32_t counter = 1;
    for (at = 0; at < size; at += 16, lane++) {
        if (lane == TSQ_LANES) {
            counter += TSQ_LANES;
            tsq_key_stream(&key->aes, nonce, counter, stream);
            lane = 0;
        }
        if (size - at >= 16) {
            tsq_store(out + at, _mm_xor_si128(tsq_load(in + at), stream[lane]));
        } else {
            uint8_t block[16];
            tsq_store(block, _mm_xor_si128(tsq_load_part(in + at, size - at), stream[lane]));
            memcpy(out + at, block, size - at);
        }
    }
}

/* Encrypt `size` bytes in place and write the tag (16 bytes) behind them. nonce: 12 bytes, never the same twice under a key. */
TSQ_TARGET static void tsq_gcm_seal(
    const tsq_gcm_key *key, const uint8_t *nonce, const uint8_t *header, size_t header_size, uint8_t *text, size_t size)
{
    __m128i stream[TSQ_LANES], cover;
    tsq_key_stream(&key->aes, nonce, 1, stream);
    cover = stream[0];
    tsq_cover(key, nonce, stream, text, text, size);
    tsq_store(text + size, _mm_xor_si128(tsq_ghash(key, header, header_size, text, size), cover));
}

/* Decrypt `size` bytes that have their tag behind them into `out`: 1, or 0 where they are not authentic, and nothing is written. */
TSQ_TARGET static int tsq_gcm_open(
    const tsq_gcm_key *key, const uint8_t *nonce, const uint8_t *header, size_t header_size, const uint8_t *text, size_t size,
    uint8_t *out)
{
    __m128i stream[TSQ_LANES], difference;
    tsq_key_stream(&key->aes, nonce, 1, stream);
    difference = _mm_xor_si128(tsq_ghash(key, header, header_size, text, size), stream[0]);
    difference = _mm_xor_si128(difference, tsq_load(text + size));
    if (!_mm_testz_si128(difference, difference))
        return 0;
    tsq_cover(key, nonce, stream, text, out, size);
    return 1;
}

#else

#define TSQ_ABSENT __attribute__((unused)) static

TSQ_ABSENT int tsq_aes_available(void) { return 0; }
TSQ_ABSENT void tsq_aes_set(tsq_aes_key *out, const uint8_t *data, int size) { (void) out; (void) data; (void) size; }
TSQ_ABSENT void tsq_aes_block(const tsq_aes_key *key, const uint8_t *in, uint8_t *out) { (void) key; (void) in; (void) out; }
TSQ_ABSENT void tsq_gcm_set(tsq_gcm_key *out, const uint8_t *data, int size) { (void) out; (void) data; (void) size; }

TSQ_ABSENT void tsq_gcm_seal(
    const tsq_gcm_key *key, const uint8_t *nonce, const uint8_t *header, size_t header_size, uint8_t *text, size_t size)
{
    (void) key; (void) nonce; (void) header; (void) header_size; (void) text; (void) size;
}

TSQ_ABSENT int tsq_gcm_open(
    const tsq_gcm_key *key, const uint8_t *nonce, const uint8_t *header, size_t header_size, const uint8_t *text, size_t size,
    uint8_t *out)
{
    (void) key; (void) nonce; (void) header; (void) header_size; (void) text; (void) size; (void) out;
    return 0;
}

#endif
#endif

"""Initial packets without a connection: headers, opened packets, and the stateless replies (RFC 9000 §17.2, RFC 9001 §5.2, §5.8).

Comes in: a datagram. Goes out: its header, the payload of its Initial, opened with the keys that its connection ID gives; a Version
Negotiation, Retry or closing packet for it. Anybody can make an Initial that opens: this proves nothing about the sender.
QUIC versions 1 and 2 (RFC 9369). It must never allocate, keep anything, or read past the end.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from tsq.dataplane.digests cimport DIGEST_SIZE, cleanse, expand_label, hmac, hmac_set
from tsq.dataplane.packet cimport (
    IV_SIZE, SAMPLE_SIZE, TAG_SIZE, aead_open, aead_seal, get_varint, keys_free, keys_set_aead, keys_set_protection,
    protection_mask, seal,
)

from tsq.errors import ConfigError


cdef enum:
    AES_128_GCM = 0x1301
    KEY_SIZE = 16
    SALT_SIZE = 20
    MOST_NUMBER = 4
    CONNECTION_CLOSE = 0x1C
    LONG = 0x80
    FIXED = 0x40

cdef extern from *:
    """
    /* RFC 9001 section 5.2 and 5.8, RFC 9369 section 3.3.1 and 3.3.3. */
    static const unsigned char TSQ_SALT_1[20] = {
        0x38, 0x76, 0x2c, 0xf7, 0xf5, 0x59, 0x34, 0xb3, 0x4d, 0x17, 0x9a, 0xe6, 0xa4, 0xc8, 0x0c, 0xad, 0xcc, 0xbb, 0x7f, 0x0a};
    static const unsigned char TSQ_SALT_2[20] = {
        0x0d, 0xed, 0xe3, 0xde, 0xf7, 0x00, 0xa6, 0xdb, 0x81, 0x93, 0x81, 0xbe, 0x6e, 0x26, 0x9d, 0xcb, 0xf9, 0xbd, 0x2e, 0xd9};
    static const unsigned char TSQ_RETRY_KEY_1[16] = {
        0xbe, 0x0c, 0x69, 0x0b, 0x9f, 0x66, 0x57, 0x5a, 0x1d, 0x76, 0x6b, 0x54, 0xe3, 0x68, 0xc8, 0x4e};
    static const unsigned char TSQ_RETRY_NONCE_1[12] = {
        0x46, 0x15, 0x99, 0xd3, 0x5d, 0x63, 0x2b, 0xf2, 0x23, 0x98, 0x25, 0xbb};
    static const unsigned char TSQ_RETRY_KEY_2[16] = {
        0x8f, 0xb4, 0xb0, 0x1b, 0x56, 0xac, 0x48, 0xe2, 0x60, 0xfb, 0xcb, 0xce, 0xad, 0x7c, 0xcc, 0x92};
    static const unsigned char TSQ_RETRY_NONCE_2[12] = {
        0xd8, 0x69, 0x69, 0xbc, 0x2d, 0x7c, 0x6d, 0x99, 0x90, 0xef, 0xb0, 0x4a};
    """
    const uint8_t* SALT_1 "TSQ_SALT_1"
    const uint8_t* SALT_2 "TSQ_SALT_2"
    const uint8_t* RETRY_KEY_1 "TSQ_RETRY_KEY_1"
    const uint8_t* RETRY_NONCE_1 "TSQ_RETRY_NONCE_1"
    const uint8_t* RETRY_KEY_2 "TSQ_RETRY_KEY_2"
    const uint8_t* RETRY_NONCE_2 "TSQ_RETRY_NONCE_2"


cdef int tools_set(InitialTools* tools) noexcept nogil:
    """Prepare what does not depend on a packet; 0, or -1 where libcrypto fails. Call `tools_free` at the end in both cases."""
    hmac_set(&tools.salt_1, SALT_1, SALT_SIZE)
    hmac_set(&tools.salt_2, SALT_2, SALT_SIZE)
    if keys_set_aead(&tools.retry_1, AES_128_GCM, RETRY_KEY_1, RETRY_NONCE_1, True):
        return -1
    return keys_set_aead(&tools.retry_2, AES_128_GCM, RETRY_KEY_2, RETRY_NONCE_2, True)


cdef void tools_free(InitialTools* tools) noexcept nogil:
    keys_free(&tools.opening)
    keys_free(&tools.sealing)
    keys_free(&tools.retry_1)
    keys_free(&tools.retry_2)


# ------------------------------------------------------------------------------------------------------------- headers

cdef int kind_of(uint32_t version, uint8_t first) noexcept nogil:
    """What a long header begins. The type bits of version 2 are those of version 1, moved on by one (RFC 9369 §3.2)."""
    cdef int bits = (first >> 4) & 0x03
    if version == 0:
        return NEGOTIATION
    if version != VERSION_1 and version != VERSION_2:
        return FOREIGN
    if version == VERSION_2:
        bits = (bits + 3) & 0x03
    return INITIAL if bits == 0 else ZERO_RTT if bits == 1 else HANDSHAKE if bits == 2 else RETRY


cdef int read_id(const uint8_t** at, const uint8_t* end, const uint8_t** connection_id, int* size) noexcept nogil:
    if at[0] >= end or end - at[0] < 1 + <Py_ssize_t> at[0][0]:
        return -1
    size[0] = at[0][0]
    connection_id[0] = at[0] + 1
    at[0] += 1 + size[0]
    return 0


cdef int read_long_header(const uint8_t* data, Py_ssize_t size, LongHeader* out) noexcept nogil:
    """Read the long header at the beginning; 0, or -1 for one that is malformed.

    Of a version that is not known, only what all versions have in common is read (RFC 8999 §5.1).
    """
    cdef const uint8_t* at = data + 5
    cdef const uint8_t* end = data + size
    cdef uint64_t length = 0
    if size < 7 or not data[0] & LONG:
        return -1
    out.version = (<uint32_t> data[1] << 24) | (<uint32_t> data[2] << 16) | (<uint32_t> data[3] << 8) | data[4]
    out.kind = kind_of(out.version, data[0])
    out.token = NULL
    out.token_size = 0
    out.number_at = out.packet_size = size
    if read_id(&at, end, &out.destination, &out.destination_size) or read_id(&at, end, &out.source, &out.source_size):
        return -1
    if out.kind == NEGOTIATION or out.kind == FOREIGN:
        return 0
    if not data[0] & FIXED or out.destination_size > MAX_CID_SIZE or out.source_size > MAX_CID_SIZE:
        return -1
    if out.kind == RETRY:
        return 0
    if out.kind == INITIAL:
        if get_varint(&at, end, &length) or length > <uint64_t> (end - at):
            return -1
        out.token = at
        out.token_size = <Py_ssize_t> length
        at += length
    if get_varint(&at, end, &length) or length > <uint64_t> (end - at):
        return -1
    out.number_at = at - data
    out.packet_size = out.number_at + <Py_ssize_t> length
    return 0


cdef int count_packets(const uint8_t* data, Py_ssize_t size, int most) noexcept nogil:
    """How many packets share a datagram, counted up to one more than `most`. What follows a malformed header does not count."""
    cdef LongHeader header
    cdef int count = 0
    while size > 0 and count <= most:
        count += 1
        # A short header goes on to the end of the datagram (RFC 9000 §17.3).
        if read_long_header(data, size, &header):
            break
        data += header.packet_size
        size -= header.packet_size
    return count


# --------------------------------------------------------------------------------------------------------------- opening

cdef int set_initial_keys(InitialTools* tools, Keys* keys, const LongHeader* header, bint of_server, bint sealing) noexcept nogil:
    """Derive one side's Initial keys from the connection ID that the client chose (RFC 9001 §5.2); 0 or -1."""
    cdef HmacKey secret
    cdef uint8_t digest[DIGEST_SIZE]
    cdef uint8_t key[KEY_SIZE]
    cdef uint8_t iv[IV_SIZE]
    cdef bint second = header.version == VERSION_2
    cdef int failed
    hmac(&tools.salt_2 if second else &tools.salt_1, header.destination, header.destination_size, digest)
    hmac_set(&secret, digest, DIGEST_SIZE)
    expand_label(&secret, "tls13 server in" if of_server else "tls13 client in", DIGEST_SIZE, digest)
    hmac_set(&secret, digest, DIGEST_SIZE)
    expand_label(&secret, "tls13 quicv2 key" if second else "tls13 quic key", KEY_SIZE, key)
    expand_label(&secret, "tls13 quicv2 iv" if second else "tls13 quic iv", IV_SIZE, iv)
    failed = keys_set_aead(keys, AES_128_GCM, key, iv, sealing)
    expand_label(&secret, "tls13 quicv2 hp" if second else "tls13 quic hp", KEY_SIZE, key)
    return failed | keys_set_protection(keys, AES_128_GCM, key)


cdef Py_ssize_t open_initial(InitialTools* tools, const LongHeader* header, const uint8_t* data, uint8_t* plain) noexcept nogil:
    """Open a client's Initial into `plain` (as large as a datagram); the payload's size, or -1 where it is not authentic."""
    cdef uint8_t mask[32]
    cdef uint8_t start[MOST_DATAGRAM]
    cdef Py_ssize_t at = header.number_at
    cdef int number_size, i
    cdef uint64_t number = 0
    if header.packet_size > MOST_DATAGRAM or header.packet_size - at < MOST_NUMBER + SAMPLE_SIZE:
        return -1
    if set_initial_keys(tools, &tools.opening, header, False, False):
        return -1
    if protection_mask(&tools.opening, data + at + MOST_NUMBER, mask):
        return -1
    memcpy(start, data, at + MOST_NUMBER)
    start[0] ^= mask[0] & 0x0F
    number_size = (start[0] & 0x03) + 1
    for i in range(number_size):
        start[at + i] ^= mask[1 + i]
        number = (number << 8) | start[at + i]
    # No earlier packet number is known, so the truncated one is the number itself (RFC 9000 A.3).
    at += number_size
    return aead_open(&tools.opening, start, at, number, data + at, header.packet_size - at, plain)


# --------------------------------------------------------------------------------------------------------------- replies

cdef uint8_t* put_ids(uint8_t* at, const LongHeader* header, const uint8_t* from_id, int from_size) noexcept nogil:
    """Write the connection IDs of a reply: to the client's, from this one."""
    at[0] = <uint8_t> header.source_size
    memcpy(at + 1, header.source, header.source_size)
    at += 1 + header.source_size
    at[0] = <uint8_t> from_size
    memcpy(at + 1, from_id, from_size)
    return at + 1 + from_size


cdef uint8_t* put_version(uint8_t* at, uint32_t version) noexcept nogil:
    at[0] = <uint8_t> (version >> 24)
    at[1] = <uint8_t> (version >> 16)
    at[2] = <uint8_t> (version >> 8)
    at[3] = <uint8_t> version
    return at + 4


cdef Py_ssize_t put_negotiation(
    uint8_t* out, const LongHeader* header, const uint32_t* versions, int count, uint8_t noise
) noexcept nogil:
    """Write a Version Negotiation packet (RFC 9000 §17.2.1); its size. noise: bits without a meaning."""
    cdef uint8_t* at
    cdef int i
    out[0] = LONG | FIXED | noise
    at = put_ids(put_version(out + 1, 0), header, header.destination, header.destination_size)
    for i in range(count):
        at = put_version(at, versions[i])
    return at - out


cdef Py_ssize_t put_retry(
    InitialTools* tools, uint8_t* out, const LongHeader* header, const uint8_t* new_id, int new_id_size, const uint8_t* token,
    Py_ssize_t token_size, uint8_t noise
) noexcept nogil:
    """Write a Retry packet (RFC 9000 §17.2.5, RFC 9001 §5.8) with its integrity tag; its size, or -1."""
    cdef uint8_t pseudo[1 + MAX_CID_SIZE + REPLY_CAPACITY]
    cdef bint second = header.version == VERSION_2
    cdef Keys* keys = &tools.retry_2 if second else &tools.retry_1
    cdef uint8_t* at
    cdef Py_ssize_t size
    out[0] = LONG | FIXED | (0x00 if second else 0x30) | (noise & 0x0F)
    at = put_ids(put_version(out + 1, header.version), header, new_id, new_id_size)
    memcpy(at, token, token_size)
    size = at + token_size - out
    pseudo[0] = <uint8_t> header.destination_size
    memcpy(pseudo + 1, header.destination, header.destination_size)
    memcpy(pseudo + 1 + header.destination_size, out, size)
    if aead_seal(keys, keys.iv, pseudo, 1 + header.destination_size + size, out + size, 0):
        return -1
    return size + TAG_SIZE


cdef Py_ssize_t put_close(
    InitialTools* tools, uint8_t* out, const LongHeader* header, int code, const char* reason, int reason_size
) noexcept nogil:
    """Write a server's Initial that ends a client's attempt (RFC 9000 §10.2.3, §20.1); its size, or -1. code: below 64.

    Nothing in it asks for an acknowledgment, so it needs no padding (RFC 9000 §14.1). reason_size: below 64.
    """
    cdef uint8_t* at
    cdef uint8_t* plain
    out[0] = LONG | FIXED | (0x10 if header.version == VERSION_2 else 0x00) | 0x01
    at = put_ids(put_version(out + 1, header.version), header, header.destination, header.destination_size)
    # No token, a length of two bytes, packet number 0 in two bytes. The frame that caused the close: none.
    at[0] = 0
    at[1] = 0x40
    at[2] = <uint8_t> (2 + 4 + reason_size + TAG_SIZE)
    at[3] = at[4] = 0
    plain = at + 5
    plain[0] = CONNECTION_CLOSE
    plain[1] = <uint8_t> code
    plain[2] = 0
    plain[3] = <uint8_t> reason_size
    memcpy(plain + 4, reason, reason_size)
    if set_initial_keys(tools, &tools.sealing, header, True, True):
        return -1
    return seal(&tools.sealing, out, plain - out, 0, 4 + reason_size)


# ------------------------------------------------------------------------------------------------------ from Python

def initial_payload(bytes data not None):
    """The payload of the Initial at the beginning of a datagram, opened as a client's; None where it is none that opens."""
    cdef InitialTools tools
    cdef LongHeader header
    cdef uint8_t plain[MOST_DATAGRAM]
    cdef const uint8_t* at = <const uint8_t*> PyBytes_AS_STRING(data)
    cdef Py_ssize_t size
    if read_long_header(at, len(data), &header) or header.kind != INITIAL:
        return None
    memset(&tools, 0, sizeof(tools))
    try:
        if tools_set(&tools):
            raise ConfigError("libcrypto refused a key", expected="AES-128-GCM in this OpenSSL")
        size = open_initial(&tools, &header, at, plain)
    finally:
        tools_free(&tools)
        cleanse(&tools, sizeof(tools))
    return None if size < 0 else PyBytes_FromStringAndSize(<const char*> plain, size)


def packets_in(bytes data not None, int most):
    """How many packets share a datagram, counted up to one more than `most`."""
    return count_packets(<const uint8_t*> PyBytes_AS_STRING(data), len(data), most)

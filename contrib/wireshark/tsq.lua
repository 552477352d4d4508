-- Shows the messages of TSQ in decrypted QUIC captures: Wireshark and tshark 4.0 or newer, with Lua.
--
-- Install: copy this file to the personal Lua plugins (Help, About Wireshark, Folders), or give it by `-X lua_script:tsq.lua`.
-- docs/howto/decrypt-with-wireshark.md tells how to decrypt, and what the fields mean. R1 to R13: docs/reference/protocol.md.
--
-- QUIC gives DATAGRAM frames to no other dissector. So this one runs after it, on the fields quic.dg and quic.stream_data of each
-- connection whose ALPN is tsq/1 or tsq. T1 and T4 are not on the wire: the times of the captured frames stand for them.

local tsq = Proto("tsq", "Time Synchronization over QUIC")

local NONCE, T2, T3, QUERY, QUALITY, ERROR, PRECISION, SOURCE, SIGN, METADATA, PADDING, SIGNATURE =
    1, 2, 3, 247, 248, 249, 250, 251, 252, 253, 254, 255
local NAMES = {
    [NONCE] = "Nonce", [T2] = "Receive Timestamp (T2)", [T3] = "Send Timestamp (T3)", [QUERY] = "Metadata Query",
    [QUALITY] = "Clock Quality Info", [ERROR] = "Error", [PRECISION] = "Precision Mode", [SOURCE] = "Time Source Info",
    [SIGN] = "Signature Request", [METADATA] = "Metadata", [PADDING] = "Padding", [SIGNATURE] = "Signature Block",
}
local LENGTHS = { [NONCE] = 16, [T2] = 8, [T3] = 8, [QUERY] = 0, [PRECISION] = 0, [SIGN] = 0 }
local ONCE = { [NONCE] = true, [T2] = true, [T3] = true, [PRECISION] = true, [SIGN] = true, [SIGNATURE] = true }
-- R4: the order in which senders write.
local GROUPS = { [NONCE] = 0, [T2] = 1, [T3] = 2, [PADDING] = 4, [SIGNATURE] = 5 }
local MODES = { [1] = "datagram", [2] = "stream" }
local DATAGRAM, STREAM = 1, 2
local CLASSES = { [0] = "unknown", "GNSS", "PTP grandmaster", "NTP-synchronized", "local OCXO", "holdover" }
local SOURCES = { "GPS", "PTP", "NTP", "manual", "unknown" }
local CODES = { "malformed request", "unsupported TLV", "authentication required" }
local ALGORITHMS = { "Ed25519", "HMAC-SHA256" }
local EPOCH = 2208988800 -- seconds from 1900 to 1970
local ERA = 4294967296
local NS = 1000000000
local DAY = 86400
-- Many captures have times in µs.
local CAPTURE_PRECISION = { s = 0, ns = 1000 }

local F = {
    mode = ProtoField.uint8("tsq.mode", "Mode", base.DEC, MODES),
    response = ProtoField.bool("tsq.response", "Response"),
    size = ProtoField.uint32("tsq.size", "Size"),
    kind = ProtoField.uint8("tsq.tlv.type", "Type", base.DEC, NAMES),
    length = ProtoField.uint8("tsq.tlv.length", "Length"),
    unknown = ProtoField.bytes("tsq.tlv.unknown", "Value"),
    nonce = ProtoField.bytes("tsq.nonce", "Nonce"),
    t2 = ProtoField.absolute_time("tsq.t2", "T2", base.UTC),
    t3 = ProtoField.absolute_time("tsq.t3", "T3", base.UTC),
    ntp = ProtoField.uint64("tsq.ntp", "NTP timestamp", base.HEX),
    class = ProtoField.uint8("tsq.quality.class", "Clock class", base.DEC, CLASSES),
    error_us = ProtoField.uint16("tsq.quality.error", "Estimated error (µs; 65535: or more)"),
    drift_ppb = ProtoField.uint16("tsq.quality.drift", "Drift (ppb; 65535: or more)"),
    tag = ProtoField.string("tsq.quality.tag", "Tag"),
    stratum = ProtoField.uint8("tsq.source.stratum", "Stratum"),
    source = ProtoField.uint8("tsq.source.type", "Source type", base.DEC, SOURCES),
    description = ProtoField.string("tsq.source.description", "Description"),
    code = ProtoField.uint8("tsq.error.code", "Code", base.DEC, CODES),
    reason = ProtoField.string("tsq.error.reason", "Reason"),
    key = ProtoField.string("tsq.metadata.key", "Key"),
    value = ProtoField.string("tsq.metadata.value", "Value"),
    padding = ProtoField.bytes("tsq.padding", "Padding"),
    algorithm = ProtoField.uint8("tsq.signature.algorithm", "Algorithm", base.DEC, ALGORITHMS),
    key_id = ProtoField.uint32("tsq.signature.key_id", "Key id"),
    signature_length = ProtoField.uint16("tsq.signature.length", "Signature length"),
    signature = ProtoField.bytes("tsq.signature", "Signature"),
    request_in = ProtoField.framenum("tsq.request_in", "Request in frame", base.NONE, frametype.REQUEST),
    response_in = ProtoField.framenum("tsq.response_in", "Response in frame", base.NONE, frametype.RESPONSE),
    offset = ProtoField.relative_time("tsq.offset", "Offset"),
    delay = ProtoField.relative_time("tsq.delay", "Delay"),
    processing = ProtoField.relative_time("tsq.processing", "T3 - T2"),
    exact_t3 = ProtoField.absolute_time("tsq.exact.t3", "Exact T3", base.UTC),
    exact_for = ProtoField.framenum("tsq.exact.response_in", "of the response in frame"),
    exact_late = ProtoField.relative_time("tsq.exact.late", "Exact T3 - claimed T3"),
    exact_offset = ProtoField.relative_time("tsq.exact.offset", "Offset with exact T3"),
    exact_delay = ProtoField.relative_time("tsq.exact.delay", "Delay with exact T3"),
}
local E = {
    malformed = ProtoExpert.new("tsq.malformed", "Malformed message (R4)", expert.group.MALFORMED, expert.severity.ERROR),
    unordered = ProtoExpert.new("tsq.unordered", "Not as a sender writes it (R4)", expert.group.PROTOCOL, expert.severity.NOTE),
    unknown = ProtoExpert.new("tsq.unknown", "Unknown type, skipped (R4)", expert.group.UNDECODED, expert.severity.CHAT),
    text = ProtoExpert.new("tsq.not_utf8", "Text that is not UTF-8", expert.group.PROTOCOL, expert.severity.NOTE),
    error = ProtoExpert.new("tsq.error", "Error response", expert.group.RESPONSE_CODE, expert.severity.NOTE),
    misplaced = ProtoExpert.new("tsq.misplaced", "Not for this mode or direction", expert.group.PROTOCOL, expert.severity.WARN),
    no_request = ProtoExpert.new("tsq.no_request", "No request with this nonce", expert.group.SEQUENCE, expert.severity.WARN),
    repeated = ProtoExpert.new("tsq.repeated", "Nonce that was used before", expert.group.SEQUENCE, expert.severity.WARN),
    unusable = ProtoExpert.new("tsq.unusable", "Sample that is not used (R8)", expert.group.SEQUENCE, expert.severity.WARN),
    sizes = ProtoExpert.new("tsq.sizes", "Precision Mode with another size (R7)", expert.group.PROTOCOL, expert.severity.WARN),
    unsigned = ProtoExpert.new("tsq.unsigned", "Signature that is missing (R6)", expert.group.SECURITY, expert.severity.WARN),
    report = ProtoExpert.new("tsq.report", "Exact T3 that is not used (R12)", expert.group.PROTOCOL, expert.severity.WARN),
    after = ProtoExpert.new("tsq.after", "Bytes after a whole request (R2)", expert.group.SEQUENCE, expert.severity.WARN),
}

local function list(named)
    local found = {}
    for _, one in pairs(named) do
        found[#found + 1] = one
    end
    return found
end
tsq.fields = list(F)
tsq.experts = list(E)

local X = {}
for name, field in pairs({
    number = "quic.connection.number", datagrams = "quic.dg", data = "quic.stream_data", stream = "quic.stream.stream_id",
    fin = "quic.stream.fin", has_offset = "quic.stream.off", offset = "quic.stream.offset", handshake = "tls.handshake.type",
    alpn = "tls.handshake.extensions_alpn_str", time = "frame.time_epoch",
}) do
    X[name] = Field.new(field)
end

-- What is known of a capture. A file may be shown many times: only the first pass changes it.
local connections -- by number: server (its address), offered, chosen, requests and responses (by nonce), streams
local frames -- by number: the messages in a frame

function tsq.init()
    connections = {}
    frames = {}
end

------------------------------------------------------------------------------------------------------------------------ times
-- Whole seconds and ns from 0 to 999999999, as differences of decades in ns are too large for a double.

local function time(s, ns)
    local carry = math.floor(ns / NS)
    return { s = s + carry, ns = ns - carry * NS }
end

local function minus(a, b)
    return time(a.s - b.s, a.ns - b.ns)
end

local function plus(a, b)
    return time(a.s + b.s, a.ns + b.ns)
end

local function half(a)
    local s = math.floor(a.s / 2)
    return time(s, math.floor((a.ns + (a.s - 2 * s) * NS) / 2))
end

local function negative(a)
    return a.s < 0
end

local function nstime(a)
    -- Wireshark's negative times have two negative parts.
    if a.s < 0 and a.ns > 0 then
        return NSTime.new(a.s + 1, a.ns - NS)
    end
    return NSTime.new(a.s, a.ns)
end

local function shown(a)
    local sign, size = "+", a
    if negative(a) then
        sign, size = "-", minus({ s = 0, ns = 0 }, a)
    end
    return string.format("%s%d.%09d s", sign, size.s, size.ns)
end

-- R9: an NTP timestamp, in the era nearest to a time; rounded down to ns.
local function from_ntp(seconds, fraction, near)
    local s = seconds - EPOCH
    s = s + math.floor((near.s - s) / ERA + 0.5) * ERA
    -- fraction * 10^9 / 2^32 without a number over 2^53.
    return time(s, math.floor(fraction * 1953125 / 8388608))
end

--------------------------------------------------------------------------------------------------------------------- messages

-- The bytes of a value as a Lua string.
local function number(bytes, first, count)
    local value = 0
    for at = first, first + count - 1 do
        value = value * 256 + bytes:byte(at)
    end
    return value
end

-- The pairs of a Metadata TLV: where keys and values are, from 0 in the value; nil where a length runs past the end.
local function pairs_of(value)
    local found, at, key = {}, 1, nil
    while at <= #value do
        local size = value:byte(at)
        if at + size > #value then
            return nil
        end
        local part = { at = at, size = size, text = value:sub(at + 1, at + size) }
        if key then
            found[#found + 1] = { key = key, value = part }
            key = nil
        else
            key = part
        end
        at = at + 1 + size
    end
    if key then
        return nil
    end
    return found
end

-- The TLVs of a message as far as they are whole, and the first rule of R4 that it breaks, or nil.
local function parse(bytes, is_response)
    local tlvs, seen, why, at = {}, {}, nil, 1
    local function broken(text)
        why = why or text
    end
    while at <= #bytes do
        if at == #bytes then
            broken("one byte after the last TLV")
            break
        end
        local kind, size = bytes:byte(at), bytes:byte(at + 1)
        if at + 1 + size > #bytes then
            broken(string.format("a TLV of type %d whose value of %d bytes runs past the end", kind, size))
            break
        end
        local tlv = { kind = kind, at = at - 1, size = size, value = bytes:sub(at + 2, at + 1 + size) }
        tlvs[#tlvs + 1] = tlv
        if #tlvs == 1 and kind ~= NONCE and not (is_response and kind == ERROR) then
            broken("no Nonce at the beginning")
        elseif LENGTHS[kind] and size ~= LENGTHS[kind] then
            broken(string.format("%s of %d bytes, not %d", NAMES[kind], size, LENGTHS[kind]))
        elseif ONCE[kind] and seen[kind] then
            broken("a second " .. NAMES[kind])
        elseif seen[SIGNATURE] then
            broken("a TLV after the Signature Block")
        elseif kind == METADATA and not pairs_of(tlv.value) then
            broken("Metadata that is not pairs of key and value")
        end
        seen[kind] = tlv
        at = at + 2 + size
    end
    if #tlvs == 0 then
        broken("no Nonce at the beginning")
    elseif is_response and tlvs[1].kind == ERROR then
        if #tlvs > 1 or tlvs[1].size < 2 then
            broken("an Error TLV that is short or not alone")
        end
    elseif is_response then
        if not (seen[T2] and seen[T3]) then
            broken("a response without T2 or T3")
        end
        if (seen[QUALITY] and seen[QUALITY].size < 6) or (seen[SOURCE] and seen[SOURCE].size < 2) then
            broken("clock information that is too short")
        end
        local block = seen[SIGNATURE]
        if block and (block.size < 7 or number(block.value, 6, 2) ~= block.size - 7) then
            broken("a Signature Block whose lengths disagree")
        end
    end
    return tlvs, seen, why
end

-- What a sender does otherwise than R4 says, or nil; receivers accept it.
local function irregular(tlvs)
    local group, last = 0, nil
    for _, tlv in ipairs(tlvs) do
        local mine = GROUPS[tlv.kind] or 3
        if mine < group then
            return "TLVs in another order"
        end
        group = mine
        if tlv.kind == PADDING and tlv.value:find("[\1-\255]") then
            return "Padding that is not zero"
        elseif (tlv.kind == QUALITY or tlv.kind == ERROR) and (tlv.value:byte(2) or 0) ~= 0 then
            return "a reserved byte that is not zero"
        elseif tlv.kind == METADATA then
            for _, pair in ipairs(pairs_of(tlv.value) or {}) do
                if last and pair.key.text <= last then
                    return "Metadata keys out of order"
                end
                last = pair.key.text
            end
        end
    end
    return nil
end

-- A message: kept for each later time that its frame is shown.
local function message(bytes, mode, is_response, now)
    local tlvs, seen, why = parse(bytes, is_response)
    local found = { bytes = bytes, mode = mode, is_response = is_response, tlvs = tlvs, why = why, now = now, notes = {} }
    found.irregular = irregular(tlvs)
    found.is_error = is_response and tlvs[1] ~= nil and tlvs[1].kind == ERROR
    found.precision, found.signs = seen[PRECISION] ~= nil, seen[is_response and SIGNATURE or SIGN] ~= nil
    if why then
        return found
    end
    if not found.is_error then
        found.nonce = tlvs[1].value
    end
    if is_response and found.nonce then
        local t2, t3 = seen[T2].value, seen[T3].value
        found.t2 = from_ntp(number(t2, 1, 4), number(t2, 5, 4), now)
        found.t3 = from_ntp(number(t3, 1, 4), number(t3, 5, 4), found.t2)
    end
    return found
end

------------------------------------------------------------------------------------------------------- requests and responses

local function note(found, kind, text)
    found.notes[#found.notes + 1] = { kind, text }
end

-- R11: offset and delay, with a given T3.
local function sample(request, response, t3)
    local offset = half(plus(minus(response.t2, request.now), minus(t3, response.now)))
    return offset, minus(minus(response.now, request.now), minus(t3, response.t2))
end

-- R12: what a response reports about an earlier one.
local function exact_t3(connection, found)
    for _, tlv in ipairs(found.tlvs) do
        for _, pair in ipairs(tlv.kind == METADATA and pairs_of(tlv.value) or {}) do
            local text = pair.value.text
            if pair.key.text == "tsq.t3" then
                if #text ~= 32 or text:find("[^0-9a-f]") then
                    note(found, E.report, "a value that is not 32 hexadecimal digits in lower case")
                    return
                end
                local nonce = text:sub(1, 16):gsub("..", function(digits) return string.char(tonumber(digits, 16)) end)
                local earlier = connection.reported[nonce]
                if not earlier then
                    note(found, E.report, "no earlier response whose nonce begins so")
                    return
                end
                local t3 = from_ntp(tonumber(text:sub(17, 24), 16), tonumber(text:sub(25, 32), 16), earlier.t3)
                found.exact = { t3 = t3, frame = earlier.frame, late = minus(t3, earlier.t3), at = pair.key.at, tlv = tlv }
                if negative(found.exact.late) then
                    note(found, E.report, "earlier than the claimed T3")
                elseif earlier.request then
                    found.exact.offset, found.exact.delay = sample(earlier.request, earlier, t3)
                end
                connection.reported[nonce] = nil
            end
        end
    end
end

-- R8: why a client does not use a sample, or nil.
local function not_used(request, response)
    if negative(minus(response.t3, response.t2)) then
        return "T3 is before T2"
    elseif negative(minus(response.now, request.now)) then
        return "T4 is before T1"
    elseif negative(plus(response.delay, CAPTURE_PRECISION)) then
        return "negative delay"
    elseif response.offset.s >= DAY or response.offset.s < -DAY then
        return "an offset over 24 h"
    end
    return nil
end

local function pair_response(connection, found, stream)
    local request
    if found.is_error then
        request = stream and stream.request
        note(found, E.error, "an error in place of the time")
        if found.mode == DATAGRAM then
            note(found, E.misplaced, "an Error TLV in Datagram Mode")
        end
    else
        request = connection.requests[found.nonce]
        exact_t3(connection, found)
        connection.reported[found.nonce:sub(1, 8)] = found
    end
    if not request then
        if not found.is_error then
            note(found, E.no_request, "no earlier request with this nonce in this capture")
        end
        return
    end
    if request.response then
        note(found, E.repeated, "a second response; the first is in frame " .. request.response.frame)
    end
    found.request = request
    request.response = request.response or found
    if found.is_error then
        return
    end
    found.offset, found.delay = sample(request, found, found.t3)
    local why = not_used(request, found)
    if why then
        note(found, E.unusable, why)
    end
    if found.precision and #found.bytes ~= #request.bytes then
        note(found, E.sizes, string.format("%d bytes answer %d", #found.bytes, #request.bytes))
    end
    if request.signs and not found.signs then
        note(found, E.unsigned, "the request asks for a signature")
    end
end

-- First pass: tie a message to those before it.
local function enter(connection, found, frame, stream)
    found.frame = frame
    if found.why then
        return
    end
    if found.is_response then
        pair_response(connection, found, stream)
        return
    end
    local before = connection.requests[found.nonce]
    if before then
        note(found, E.repeated, "the nonce of the request in frame " .. before.frame)
    end
    connection.requests[found.nonce] = found
    if stream then
        stream.request = found
    end
end

---------------------------------------------------------------------------------------------------------------------- streams

-- First pass: add the data of a STREAM frame. The whole message at its end; "part" before it; "after" for bytes that are too many.
local function add_part(stream, is_response, offset, bytes, fin)
    local side = stream[is_response and "server" or "client"]
    side.parts[offset] = (side.parts[offset] and #side.parts[offset] > #bytes) and side.parts[offset] or bytes
    if fin then
        side.size = offset + #bytes
    end
    local whole, going = "", true
    while going do
        going = false
        for start, part in pairs(side.parts) do
            if start <= #whole and start + #part > #whole then
                whole, going = whole .. part:sub(#whole - start + 1), true
            end
        end
    end
    if side.done then
        return #whole > side.done and "after" or nil
    end
    local ended = side.size ~= nil and #whole >= side.size
    if not ended and is_response then
        return "part"
    elseif not ended then
        -- R2: some clients never send FIN.
        local _, _, why = parse(whole, false)
        if why then
            return "part"
        end
    end
    side.done = #whole
    return "whole", whole
end

local function stream_of(connection, id)
    connection.streams[id] = connection.streams[id] or { client = { parts = {} }, server = { parts = {} } }
    return connection.streams[id]
end

------------------------------------------------------------------------------------------------------------------------- tree

-- RFC 3629 §4: the characters of UTF-8, by their first bytes.
local CHARACTERS = {
    "^[^\128-\255]+", "^[\194-\223][\128-\191]", "^\224[\160-\191][\128-\191]", "^[\225-\236\238\239][\128-\191][\128-\191]",
    "^\237[\128-\159][\128-\191]", "^\240[\144-\191][\128-\191][\128-\191]", "^[\241-\243][\128-\191][\128-\191][\128-\191]",
    "^\244[\128-\143][\128-\191][\128-\191]",
}

local function is_utf8(text)
    local at = 1
    while at <= #text do
        local last
        for _, pattern in ipairs(CHARACTERS) do
            last = last or select(2, text:find(pattern, at))
        end
        if not last then
            return false
        end
        at = last + 1
    end
    return true
end

local function add_text(tree, field, range)
    local item = tree:add_packet_field(field, range, ENC_UTF_8)
    if not is_utf8(range:raw()) then
        item:add_proto_expert_info(E.text)
    end
end

local function add_exact(tree, exact)
    tree:add(F.exact_t3, nstime(exact.t3)):set_generated()
    tree:add(F.exact_for, exact.frame):set_generated()
    tree:add(F.exact_late, nstime(exact.late)):set_generated()
    if exact.offset then
        tree:add(F.exact_offset, nstime(exact.offset)):set_generated()
        tree:add(F.exact_delay, nstime(exact.delay)):set_generated()
    end
end

local function add_metadata(tree, range, tlv, exact)
    for _, pair in ipairs(pairs_of(tlv.value) or {}) do
        local line = tree:add(tsq, range(pair.key.at - 1, pair.value.at + pair.value.size - pair.key.at + 1))
        line:set_text("Pair")
        for part, field in pairs({ key = F.key, value = F.value }) do
            if pair[part].size > 0 then
                add_text(line, field, range(pair[part].at, pair[part].size))
            else
                line:add(field, range(pair[part].at - 1, 1), "")
            end
        end
        line:set_text("Pair: " .. pair.key.text:gsub("[^%g ]", "?") .. " = " .. pair.value.text:gsub("[^%g ]", "?"))
        if exact and exact.tlv == tlv and exact.at == pair.key.at then
            add_exact(line, exact)
        end
    end
end

-- What a TLV of a known type holds, as far as its length allows.
local CONTENTS = {
    [NONCE] = function(tree, range) tree:add(F.nonce, range) end,
    [T2] = function(tree, range, tlv, found)
        tree:add(F.ntp, range)
        if found.t2 then tree:add(F.t2, range, nstime(found.t2)) end
    end,
    [T3] = function(tree, range, tlv, found)
        tree:add(F.ntp, range)
        if found.t3 then tree:add(F.t3, range, nstime(found.t3)) end
    end,
    [QUALITY] = function(tree, range, tlv)
        if tlv.size < 6 then return end
        tree:add(F.class, range(0, 1))
        tree:add(F.error_us, range(2, 2))
        tree:add(F.drift_ppb, range(4, 2))
        if tlv.size > 6 then add_text(tree, F.tag, range(6)) end
    end,
    [SOURCE] = function(tree, range, tlv)
        if tlv.size < 2 then return end
        tree:add(F.stratum, range(0, 1))
        tree:add(F.source, range(1, 1))
        if tlv.size > 2 then add_text(tree, F.description, range(2)) end
    end,
    [ERROR] = function(tree, range, tlv)
        if tlv.size < 2 then return end
        tree:add(F.code, range(0, 1))
        if tlv.size > 2 then add_text(tree, F.reason, range(2)) end
    end,
    [METADATA] = function(tree, range, tlv, found) add_metadata(tree, range, tlv, found.exact) end,
    [PADDING] = function(tree, range) tree:add(F.padding, range) end,
    [SIGNATURE] = function(tree, range, tlv)
        if tlv.size < 7 then return end
        tree:add(F.algorithm, range(0, 1))
        tree:add(F.key_id, range(1, 4))
        tree:add(F.signature_length, range(5, 2))
        if tlv.size > 7 then tree:add(F.signature, range(7)) end
    end,
}

local function add_tlv(tree, range, tlv, found)
    local name = NAMES[tlv.kind] or "Unknown type " .. tlv.kind
    local line = tree:add(tsq, range(tlv.at, 2 + tlv.size))
    line:set_text(string.format("%s, %d bytes", name, tlv.size))
    line:add(F.kind, range(tlv.at, 1))
    line:add(F.length, range(tlv.at + 1, 1))
    if tlv.size > 0 then
        local contents = CONTENTS[tlv.kind] or function(inner, value) inner:add(F.unknown, value) end
        contents(line, range(tlv.at + 2, tlv.size), tlv, found)
    end
    if not NAMES[tlv.kind] then
        line:add_proto_expert_info(E.unknown, name)
    end
end

local function title(found)
    local kind = found.is_error and "error" or found.is_response and "response" or "request"
    return found.why and "malformed " .. kind or kind
end

local function add_message(tree, range, found)
    local top = range and tree:add(tsq, range) or tree:add(tsq)
    top:set_text(string.format("Time Synchronization over QUIC, %s, %d bytes", title(found), #found.bytes))
    top:add(F.mode, found.mode):set_generated()
    top:add(F.response, found.is_response):set_generated()
    top:add(F.size, #found.bytes):set_generated()
    for _, tlv in ipairs(found.tlvs) do
        add_tlv(top, range, tlv, found)
    end
    if found.request then
        top:add(F.request_in, found.request.frame):set_generated()
    elseif found.response then
        top:add(F.response_in, found.response.frame):set_generated()
    end
    if found.t2 then
        top:add(F.processing, nstime(minus(found.t3, found.t2))):set_generated()
    end
    if found.offset then
        top:add(F.offset, nstime(found.offset)):set_generated():append_text(" (T1 and T4 are the times of the captured frames)")
        top:add(F.delay, nstime(found.delay)):set_generated()
    end
    if found.why then
        top:add_proto_expert_info(E.malformed, "Malformed: " .. found.why)
    elseif found.irregular then
        top:add_proto_expert_info(E.unordered, "Not as a sender writes it: " .. found.irregular)
    end
    for _, one in ipairs(found.notes) do
        top:add_proto_expert_info(one[1], one[2])
    end
end

local function say(pinfo, found)
    local text = "TSQ " .. title(found)
    if found.offset then
        text = text .. string.format(", offset %s, delay %s", shown(found.offset), shown(found.delay):sub(2))
    end
    pinfo.cols.info:append(", " .. text)
end

----------------------------------------------------------------------------------------------------------------------- frames

-- First pass: who is the server of a connection, and whether it speaks TSQ. The ClientHello offers, the server chooses (R1).
local function learn(connection, pinfo)
    local names = {}
    for _, name in ipairs({ X.alpn() }) do
        names[#names + 1] = tostring(name.value)
    end
    if #names == 0 then
        return
    end
    for _, kind in ipairs({ X.handshake() }) do
        if kind.value == 1 then
            connection.server = tostring(pinfo.dst) .. " " .. pinfo.dst_port
            connection.speaks = false
            for _, name in ipairs(names) do
                connection.speaks = connection.speaks or name == "tsq/1" or name == "tsq"
            end
            return
        end
    end
    connection.speaks = names[1] == "tsq/1" or names[1] == "tsq"
end

-- First pass: the messages of a frame, and the parts of messages.
local function first_look(connection, pinfo, now)
    local found = {}
    learn(connection, pinfo)
    if not connection.speaks then
        return found
    end
    local is_response = tostring(pinfo.src) .. " " .. pinfo.src_port == connection.server
    for at, field in ipairs({ X.datagrams() }) do
        local bytes = field.len > 0 and field.range:raw() or ""
        local one = message(bytes, DATAGRAM, is_response, now)
        enter(connection, one, pinfo.number)
        found[#found + 1] = { message = one, datagram = at }
    end
    local data, ids, fins, has_offset, offsets = { X.data() }, { X.stream() }, { X.fin() }, { X.has_offset() }, { X.offset() }
    local next_offset = 1
    for at, field in ipairs(data) do
        local id, offset = tonumber(tostring(ids[at].value)), 0
        if has_offset[at].value then
            offset = tonumber(tostring(offsets[next_offset].value))
            next_offset = next_offset + 1
        end
        -- R2: streams that the client opens, in both directions.
        if id % 4 == 0 then
            local stream = stream_of(connection, id)
            local bytes = field.len > 0 and field.range:raw() or ""
            local state, whole = add_part(stream, is_response, offset, bytes, fins[at].value)
            local entry = { part = state, data = at, size = #bytes, id = id }
            if state == "whole" then
                entry.message = message(whole, STREAM, is_response, now)
                entry.spread = #whole ~= #bytes
                enter(connection, entry.message, pinfo.number, stream)
            end
            if state then
                found[#found + 1] = entry
            end
        end
    end
    return found
end

local function show(entry, tree, pinfo, datagrams, data)
    if entry.message then
        local range
        if entry.spread then
            local bytes = entry.message.bytes:gsub(".", function(byte) return string.format("%02x", byte:byte()) end)
            range = ByteArray.new(bytes):tvb("TSQ message of stream " .. entry.id)()
        elseif #entry.message.bytes > 0 then
            range = (entry.datagram and datagrams[entry.datagram] or data[entry.data]).range
        end
        add_message(tree, range, entry.message)
        say(pinfo, entry.message)
    else
        local field = data[entry.data]
        local top = field.len > 0 and tree:add(tsq, field.range) or tree:add(tsq)
        if entry.part == "after" then
            top:set_text("Time Synchronization over QUIC, bytes after a message")
            top:add_proto_expert_info(E.after)
        else
            top:set_text(string.format("Time Synchronization over QUIC, %d bytes of a message", entry.size))
        end
    end
end

function tsq.dissector(tvb, pinfo, tree)
    local number_field = X.number()
    if not number_field then
        return
    end
    if not frames[pinfo.number] then
        local id = number_field.value
        connections[id] = connections[id] or { requests = {}, reported = {}, streams = {} }
        local now = X.time().value
        frames[pinfo.number] = first_look(connections[id], pinfo, time(now.secs, now.nsecs))
    end
    local entries = frames[pinfo.number]
    if #entries == 0 then
        return
    end
    local datagrams, data = { X.datagrams() }, { X.data() }
    pinfo.cols.protocol = "TSQ"
    for _, entry in ipairs(entries) do
        show(entry, tree, pinfo, datagrams, data)
    end
end

register_postdissector(tsq)

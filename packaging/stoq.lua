-- Wireshark's view of STOQ/1 records on QUIC streams, where it can decrypt them: docs/protocol.md, section 4.
--
--     wireshark -X lua_script:stoq.lua port.pcapng
--
-- What follows a PUT, and the OK of a FETCH, is a verified encoding and no record; it is shown as bytes. A CONTINUATION carries on another
-- stream: its bytes are not put together with that stream's.

local stoq = Proto("stoq", "STOQ")

local TYPES = {
    [0x01] = "SETTINGS", [0x03] = "HAVE", [0x05] = "GOAWAY", [0x07] = "MESSAGE", [0x09] = "HOP", [0x0b] = "PUT",
    [0x0d] = "FETCH", [0x0f] = "MIRROR", [0x11] = "LOCATE", [0x13] = "OK", [0x15] = "HOLDERS", [0x17] = "DONE",
    [0x19] = "ERROR", [0x1b] = "CONTINUATION", [0x1c] = "WORKING",
    [0x1d] = "LIST", [0x1f] = "STAT", [0x23] = "REMOVE", [0x25] = "RENEW", [0x27] = "LISTED",
}
local SETTINGS = {
    [1] = "max_record", [2] = "max_hops", [3] = "max_ranges", [4] = "max_inflight", [5] = "roles", [6] = "continued",
    [7] = "leases",
}
local CODES = {
    [0x00] = "none", [0x01] = "internal", [0x02] = "malformed", [0x03] = "limit", [0x04] = "unknown record",
    [0x05] = "not found", [0x06] = "bad range", [0x07] = "bad proof", [0x08] = "bad descriptor",
    [0x09] = "unsupported code", [0x0a] = "not authorized", [0x0b] = "too early", [0x0c] = "busy", [0x0d] = "going away",
    [0x0e] = "quota", [0x10] = "loop", [0x11] = "hop limit", [0x12] = "not my hop", [0x13] = "no route", [0x14] = "budget",
    [0x15] = "upstream failed", [0x16] = "mirror refused",
}
local COVERAGES = { [0] = "nothing", [1] = "all of it", [2] = "some lanes" }
local REQUESTS = {
    PUT = true, FETCH = true, MIRROR = true, LOCATE = true, LIST = true, STAT = true, REMOVE = true, RENEW = true,
}
local OWNERS = { [0] = "nodes without a certificate", [1] = "a node", [2] = "none: it passed through" }

local field = {
    kind = ProtoField.uint32("stoq.type", "Type", base.HEX, TYPES),
    name = ProtoField.string("stoq.record", "Record"),
    length = ProtoField.uint32("stoq.length", "Length"),
    body = ProtoField.bytes("stoq.body", "Body of an unknown record"),
    encoding = ProtoField.bytes("stoq.encoding", "Verified encoding"),
    continued = ProtoField.bytes("stoq.continued", "Bytes of another stream"),
    setting = ProtoField.uint32("stoq.setting.id", "Setting", base.HEX, SETTINGS),
    value = ProtoField.uint64("stoq.setting.value", "Value"),
    token = ProtoField.bytes("stoq.token", "Token"),
    coverage = ProtoField.uint8("stoq.coverage", "Coverage", base.DEC, COVERAGES),
    lanes = ProtoField.bytes("stoq.lanes", "Lanes"),
    lease = ProtoField.uint64("stoq.lease_s", "Lease, seconds"),
    retry = ProtoField.uint64("stoq.retry_ms", "Retry after, milliseconds"),
    queue = ProtoField.uint64("stoq.queue", "Queue"),
    flags = ProtoField.uint8("stoq.flags", "Flags", base.HEX),
    payload = ProtoField.bytes("stoq.payload", "Payload"),
    hop_limit = ProtoField.uint8("stoq.hop.limit", "Hop limit"),
    nonce = ProtoField.bytes("stoq.hop.nonce", "Nonce"),
    budget = ProtoField.uint64("stoq.hop.budget", "Budget, bytes"),
    cursor = ProtoField.uint8("stoq.hop.cursor", "Cursor"),
    node = ProtoField.bytes("stoq.node_id", "Node ID"),
    descriptor = ProtoField.bytes("stoq.descriptor", "Descriptor"),
    size = ProtoField.uint64("stoq.payload_length", "Length of the payload"),
    max_bytes = ProtoField.uint64("stoq.fetch.max_bytes", "Most bytes"),
    gap = ProtoField.uint64("stoq.fetch.gap", "Gap, groups or stripes"),
    run = ProtoField.uint64("stoq.fetch.len", "Run, groups or stripes"),
    bytes = ProtoField.uint64("stoq.done.bytes", "Bytes transferred"),
    code = ProtoField.uint32("stoq.error.code", "Code", base.HEX, CODES),
    reason = ProtoField.string("stoq.error.reason", "Reason"),
    stream = ProtoField.uint64("stoq.continuation.stream", "Stream"),
    expires = ProtoField.uint64("stoq.holder.expires_s", "Kept for, seconds"),
    owner = ProtoField.uint8("stoq.lease.owner", "Owner of the lease", base.DEC, OWNERS),
    length_min = ProtoField.uint64("stoq.list.length_min", "At least this long, bytes"),
    length_max = ProtoField.uint64("stoq.list.length_max", "At most this long, bytes"),
    ends = ProtoField.uint64("stoq.list.ends_s", "Ends within, seconds"),
    wanted = ProtoField.uint64("stoq.list.n", "Most entries"),
    stored = ProtoField.uint64("stoq.listed.stored", "Disk, bytes"),
    leases = ProtoField.uint64("stoq.listed.leases", "Leases"),
}
local list = {}
for _, each in pairs(field) do list[#list + 1] = each end
stoq.fields = list
local malformed = ProtoExpert.new("stoq.malformed", "Not a STOQ record", expert.group.MALFORMED, expert.severity.ERROR)
stoq.experts = { malformed }

local stream_id = Field.new("quic.stream.stream_id")
local stream_offset = Field.new("quic.stream.offset")
local connection = Field.new("quic.connection.number")

-- What is known of each stream, by connection and number: the side that opened it, its request, and whether records have ended on a side.
local streams = {}
-- What each piece of a stream was at its first dissection: later ones come in any order.
local pieces = {}

function stoq.init()
    streams, pieces = {}, {}
end

-- A QUIC integer (RFC 9000 §16): a number, its length, and its value for the tree; nothing if it is not whole.
local function varint(range, at)
    if at >= range:len() then return nil end
    local first = range(at, 1):uint()
    local len = 2 ^ math.floor(first / 64)
    if at + len > range:len() then return nil end
    local high, low = first % 64, 0
    for place = 1, len - 1 do
        local byte = range(at + place, 1):uint()
        if place < len - 4 then high = high * 256 + byte else low = low * 256 + byte end
    end
    if len < 8 then
        local value = len == 1 and high or high * 256 ^ (len - 1) + low
        return value, len, UInt64.new(value % 2 ^ 32, math.floor(value / 2 ^ 32))
    end
    return high * 2 ^ 32 + low, len, UInt64.new(low, high)
end

-- Reads the fields of one record's body.
local Body = {}
Body.__index = Body

function Body:left()
    return self.range:len() - self.at
end

function Body:fixed(what, len)
    local range = self.range(self.at, len)
    self.tree:add(what, range)
    self.at = self.at + len
    return range
end

function Body:integer(what)
    local value, len, wide = varint(self.range, self.at)
    if not value then error("an integer is cut off") end
    if what == field.setting or what == field.code then wide = value end
    if what then self.tree:add(what, self.range(self.at, len), wide) end
    self.at = self.at + len
    return value
end

function Body:some_lanes()
    self:fixed(field.lanes, 1 + self.range(self.at, 1):uint())
end

function Body:covered()
    if self:fixed(field.coverage, 1):uint() == 2 then self:some_lanes() end
end

function Body:owned()
    if self:fixed(field.owner, 1):uint() == 1 then self:fixed(field.node, 32) end
end

function Body:described()
    local len = self:integer(nil)
    if len > 0 then self:fixed(field.descriptor, len) end
end

function Body:nodes(count)
    for _ = 1, count do self:fixed(field.node, 32) end
end

-- Whether a flag is set; `flag` is its number.
local function has(flags, flag)
    return math.floor(flags / flag) % 2 == 1
end

local READ = {
    SETTINGS = function(body)
        while body:left() > 0 do
            body:integer(field.setting)
            body:integer(field.value)
        end
    end,
    HAVE = function(body)
        body:fixed(field.token, 33)
        body:covered()
        body:integer(field.lease)
    end,
    GOAWAY = function(body) body:integer(field.retry) end,
    MESSAGE = function(body)
        body:integer(field.queue)
        if has(body:fixed(field.flags, 1):uint(), 1) then body:fixed(field.token, 33) end
        if body:left() > 0 then body:fixed(field.payload, body:left()) end
    end,
    HOP = function(body)
        body:fixed(field.flags, 1)
        body:fixed(field.hop_limit, 1)
        body:fixed(field.nonce, 16)
        body:integer(field.budget)
        body:fixed(field.cursor, 1)
        local count = body.range(body.at, 1):uint()
        body.at = body.at + 1
        body:nodes(count)
    end,
    PUT = function(body)
        body:integer(field.queue)
        local flags = body:fixed(field.flags, 1):uint()
        body:integer(field.lease)
        body:described()
        if has(flags, 1) then body:some_lanes() end
    end,
    FETCH = function(body, stream)
        body:fixed(field.token, 33)
        local flags = body:fixed(field.flags, 1):uint()
        body:integer(field.max_bytes)
        if has(flags, 1) then body:some_lanes() end
        if stream then stream.describes = has(flags, 2) end
        for _ = 1, body:integer(nil) do
            body:integer(field.gap)
            body:integer(field.run)
        end
    end,
    MIRROR = function(body)
        body:fixed(field.token, 33)
        body:some_lanes()
        body:integer(field.lease)
        body:nodes(body:integer(nil))
    end,
    LOCATE = function(body) body:fixed(field.token, 33) end,
    LIST = function(body)
        local flags = body:fixed(field.flags, 1):uint()
        if has(flags, 2) then body:fixed(field.token, 33) end
        if has(flags, 4) then body:owned() end
        body:integer(field.length_min)
        body:integer(field.length_max)
        body:integer(field.ends)
        body:integer(field.wanted)
    end,
    STAT = function(body)
        body:fixed(field.flags, 1)
        body:fixed(field.token, 33)
    end,
    REMOVE = function(body) body:fixed(field.token, 33) end,
    RENEW = function(body)
        body:fixed(field.token, 33)
        body:integer(field.lease)
    end,
    LISTED = function(body)
        if has(body:fixed(field.flags, 1):uint(), 1) then body:fixed(field.token, 33) end
        for _ = 1, body:integer(nil) do
            body:fixed(field.token, 33)
            body:covered()
            body:integer(field.size)
            body:integer(field.stored)
            body:integer(field.leases)
            for _ = 1, body:integer(nil) do
                body:owned()
                body:integer(field.expires)
            end
        end
    end,
    OK = function(body)
        body:integer(field.size)
        body:described()
    end,
    HOLDERS = function(body)
        for _ = 1, body:integer(nil) do
            body:fixed(field.node, 32)
            body:covered()
            body:integer(field.expires)
        end
    end,
    DONE = function(body)
        body:integer(field.bytes)
        body:fixed(field.token, 33)
    end,
    ERROR = function(body)
        body:integer(field.code)
        body:integer(field.retry)
        if body:left() > 0 then body:fixed(field.reason, body:left()) end
    end,
    CONTINUATION = function(body) body:integer(field.stream) end,
}

-- Shows a whole record; returns its name.
local function show(range, front, number, tree, stream)
    local name = TYPES[number] or string.format("unknown record 0x%x", number)
    local item = tree:add(stoq, range, "STOQ " .. name)
    item:add(field.name, range, name):set_generated()
    item:add(field.kind, range(0, 1), number)
    item:add(field.length, range(0, front), range:len() - front)
    if range:len() > front then
        local rest = range(front, range:len() - front)
        local body = setmetatable({ range = rest, at = 0, tree = item }, Body)
        local read = READ[name] or function() body:fixed(field.body, rest:len()) end
        local is_read, fault = pcall(read, body, stream)
        if not is_read then item:add_proto_expert_info(malformed, tostring(fault)) end
    end
    return name
end

-- The state of the stream that is shown, and of the side that sent it.
local function state(pinfo)
    local ids, numbers = { stream_id() }, { connection() }
    if #ids == 0 then return nil end
    local id = tostring(ids[#ids].value)
    local key = (#numbers > 0 and tostring(numbers[#numbers].value) or "?") .. "/" .. id
    local sender = tostring(pinfo.src) .. " " .. tostring(pinfo.src_port)
    local stream = streams[key] or { opener = sender }
    streams[key] = stream
    return stream, sender == stream.opener and "asker" or "holder", key
end

-- What the bytes behind a record are: a field, or false for further records.
local function follow(stream, side, name)
    if name == "CONTINUATION" then return field.continued end
    if side == "asker" and REQUESTS[name] then stream.request = name end
    if side == "asker" and name == "PUT" then return field.encoding end
    if side == "holder" and name == "OK" and stream.request == "FETCH" and not stream.describes then
        return field.encoding
    end
    return false
end

function stoq.dissector(tvb, pinfo, tree)
    local stream, side, key = state(pinfo)
    local offsets = { stream_offset() }
    local offset = #offsets > 0 and tostring(offsets[#offsets].value) or "0"
    local piece = table.concat({ pinfo.number, key or "", side or "", offset, tvb:len() }, " ")
    local ended = pieces[piece]
    if ended == nil then
        ended = stream and stream[side] or false
        pieces[piece] = ended
    end
    local at, names = 0, {}
    while at < tvb:len() do
        if ended then
            tree:add(stoq, tvb(at)):add(ended, tvb(at))
            break
        end
        local number, number_len = varint(tvb, at)
        local length, length_len = nil, 0
        if number then length, length_len = varint(tvb, at + number_len) end
        local front = number and length and number_len + length_len
        if front and length > 65578 then
            tree:add(stoq, tvb(at)):add_proto_expert_info(malformed)
            break
        end
        if not front or at + front + length > tvb:len() then
            pinfo.desegment_offset = at
            pinfo.desegment_len = front and at + front + length - tvb:len() or DESEGMENT_ONE_MORE_SEGMENT
            break
        end
        local name = show(tvb(at, front + length), front, number, tree, stream)
        names[#names + 1] = name
        at = at + front + length
        ended = stream and follow(stream, side, name) or false
        if ended then stream[side] = ended end
    end
    if #names > 0 then
        pinfo.cols.protocol = "STOQ"
        pinfo.cols.info:append(" " .. table.concat(names, ", "))
    end
    return tvb:len()
end

DissectorTable.get("quic.proto"):add("stoq/1", stoq)

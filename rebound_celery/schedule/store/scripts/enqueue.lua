-- Store messages until they are due. An id that is stored already gets its new message, due time and lane, and a lease
-- on it becomes void. Messages that are held are leased instead, until they are due; what ends that replaces a message
-- only as long as nothing else has done so.
-- KEYS[1]  messages  HASH id -> envelope and stored form
-- KEYS[2]  leased    ZSET id -> end of its lease
-- KEYS[3]  leases    HASH id -> token
-- KEYS[4]  limits    HASH lane -> its limits
-- KEYS[5]  next      STRING time of the next claim
-- KEYS[6]  wake      LIST of at most one token
-- KEYS[7]  stats     HASH of counters
-- KEYS[8..] for each lane reference: waiting (ZSET id -> due time), lanes of its rank (ZSET lane -> when to look at it)
-- ARGV[1]  milliseconds: a sleeping worker looks again within this time by itself
-- ARGV[2]  what is done with an id that is stored already: 'replace', 'keep' (it stays as it is), 'hold' (it is replaced
--          by a message that is leased) or 'end' (it is replaced if it is still held, or due since then)
-- ARGV[3]  the token of 'hold' and 'end'
-- ARGV[4]  the time by the clock by which 'hold' gives due times; the empty text for Redis' clock
-- ARGV[5]  how many of the next arguments are counters to add to; ARGV[6..] those, as add_tally takes them
-- then     the number of lane references, and the references
-- then for each group of messages: the number of its reference, the earliest due time, how many there are, and for each
--          id, due time in Unix milliseconds, envelope and stored form
-- Returns {number of ids that were new, references that were needed too, numbers of the messages not stored for that}
local messages, leased, leases, limits = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local now = clock()
local how, token = ARGV[2], ARGV[3]
local keep = how == 'keep'
local tallied = tonumber(ARGV[5])
local first = 6 + tallied -- where the number of lane references is
local number_of = {}
for i = 1, ARGV[first] do number_of[ARGV[first + i]] = i end
local ahead = how == 'hold' and ARGV[4] - now or 0
local added, replaced, at = 0, 0, nil
local needed, left = {}, {}
local seen_before = 0

-- Take an id from where it is now. False if its lane's key is not at hand.
local function take_away(id, message, reference)
  if redis.call('HDEL', leases, id) == 1 and redis.call('ZREM', leased, id) == 1 then return true end
  local old = reference_of(message)
  if old == reference then return true end
  local number = number_of[old]
  if not number then
    needed[#needed + 1] = old
    return false
  end
  redis.call('ZREM', KEYS[6 + 2 * number], id)
  return true
end

-- Which of these ids are held with the token; nil if that does not count.
local function held_of(ids)
  if how ~= 'end' then return nil end
  local held = redis.call('HMGET', leases, unpack(ids))
  for k = 1, #ids do held[k] = held[k] == token or held[k] == '-' .. token end
  return held
end

local p = first + 1 + ARGV[first]
while p <= #ARGV do
  local number, due, count = tonumber(ARGV[p]), tonumber(ARGV[p + 1]), tonumber(ARGV[p + 2])
  local waiting, lanes, reference = KEYS[6 + 2 * number], KEYS[7 + 2 * number], ARGV[first + number]
  local ids, fields, scores = {}, {}, {}
  for k = 1, count do
    local a = p + 3 * k
    ids[k] = ARGV[a]
    fields[2 * k - 1], fields[2 * k] = ARGV[a], ARGV[a + 2]
    scores[2 * k - 1], scores[2 * k] = ARGV[a + 1], ARGV[a]
  end
  local old = redis.call('HMGET', messages, unpack(ids))
  local held = held_of(ids)
  local is_plain = not keep and not held
  for k = 1, count do
    if old[k] then
      is_plain = false
      break
    end
  end
  if not is_plain then
    -- Some are stored already: choose those to be stored now.
    fields, scores = {}, {}
    local seen = {}
    for k = 1, count do
      local id, a = ids[k], p + 3 * k
      local is_new = not old[k] and not seen[id]
      if held and not (old[k] and held[k]) then
        -- It is gone, or another message has taken its place.
      elseif is_new or (not keep and (seen[id] or take_away(id, old[k], reference))) then
        seen[id] = true
        if not is_new then replaced = replaced + 1 end
        fields[#fields + 1], fields[#fields + 2] = id, ARGV[a + 2]
        scores[#scores + 1], scores[#scores + 2] = ARGV[a + 1], id
      elseif not keep then
        left[#left + 1] = seen_before + k
      end
    end
  end
  if #fields > 0 then
    added = added + redis.call('HSET', messages, unpack(fields))
    local look = due - ahead
    if how == 'hold' then
      -- A message of this id that waited was taken from its lane, unless that is the same lane.
      for k = 2, #scores, 2 do
        redis.call('ZREM', waiting, scores[k])
        redis.call('HSET', leases, scores[k], token)
        scores[k - 1] = string.format('%.0f', scores[k - 1] - ahead)
      end
      redis.call('ZADD', leased, unpack(scores))
    else
      redis.call('ZADD', waiting, unpack(scores))
      look = look_at(lanes, limits, string.sub(reference, 2), due)
    end
    if not at or look < at then at = look end
  end
  seen_before = seen_before + count
  p = p + 3 + 3 * count
end
if at then claim_by(KEYS[5], KEYS[6], at, now + ARGV[1]) end
if added > 0 then redis.call('HINCRBY', KEYS[7], 'stored', added) end
if replaced > 0 then redis.call('HINCRBY', KEYS[7], 'replaced', replaced) end
if tallied > 0 then add_tally(KEYS[7], ARGV, 6, 5 + tallied) end
return { added, needed, left }

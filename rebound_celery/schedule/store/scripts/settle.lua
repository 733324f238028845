-- End leases. A lease that is void, for its message was stored anew or leased again, changes nothing: this may be sent
-- any number of times.
-- KEYS[1]  messages    HASH id -> envelope and stored form
-- KEYS[2]  leased      ZSET id -> end of its lease
-- KEYS[3]  leases      HASH id -> token
-- KEYS[4]  limits      HASH lane -> its limits
-- KEYS[5]  next        STRING time of the next claim
-- KEYS[6]  wake        LIST of at most one token
-- KEYS[7]  stats       HASH of counters
-- KEYS[8]  dead        HASH id -> reason, line feed, stored form
-- KEYS[9]  dead:times  ZSET id -> when it died
-- KEYS[10] chained, KEYS[11] chained:entries, KEYS[12] chained:heads: see chained.lua
-- KEYS[13..] for each lane reference: waiting (ZSET id -> due time), lanes of its rank (ZSET lane -> when to look at it)
-- ARGV[1]  the number of lane references; ARGV[2..] the references
-- then     how many tallies there are, and for each how many of the messages that are done it is about, how many arguments
--          it has, and these arguments, as add_tally takes them. The first tally is about the first messages, and so on. A
--          tally counts only if the lease of one of its messages is ended, so that it counts once
-- then     how many messages are done, and for each of them id, token
-- then     for each other message id, token, what: 'release' (as if it had not been claimed), 'lost' (as if its lease
--          had run out), or the reason of a dead letter after a colon
-- Done and dead hold although the lease has run out, as long as no other worker has the message.
-- Returns {number of messages settled, references that were needed too, positions in ARGV of ids not settled for that}
local messages, leased, leases, stats = KEYS[1], KEYS[2], KEYS[3], KEYS[7]
local references = tonumber(ARGV[1])
local number_of = {}
for i = 1, references do number_of[ARGV[1 + i]] = i end
local needed, left = {}, {}
local counts = { done = 0, released = 0, lost = 0, dead = 0 }
local now
local at

-- The waiting key of a message, or nil if it is not at hand: then its end is left to the next call.
local function lane_keys(message, position)
  local number = number_of[reference_of(message)]
  if number then return KEYS[11 + 2 * number], KEYS[12 + 2 * number] end
  needed[#needed + 1] = reference_of(message)
  left[#left + 1] = position
end

-- Take a message away whose lease has run out: it waits. False if that is left to the next call.
local function take_from_lane(id, position)
  local message = redis.call('HGET', messages, id)
  if message then
    local waiting = lane_keys(message, position)
    if not waiting then return false end
    redis.call('ZREM', waiting, id)
    redis.call('HDEL', messages, id)
  end
  redis.call('HDEL', leases, id)
  return true
end

local chains

-- Let the chain of a dead letter go on, if it has one. False if that is left to the next call.
local function leave_chain(id, position)
  chains = chains
    or chains_of({
      messages = messages,
      leased = leased,
      leases = leases,
      limits = KEYS[4],
      order = KEYS[10],
      entries = KEYS[11],
      heads = KEYS[12],
      now = now,
      needed = needed,
      lane = function(reference)
        local number = number_of[reference]
        if number then return KEYS[11 + 2 * number], KEYS[12 + 2 * number] end
      end,
    })
  if chains.left(id, true) then return true end
  left[#left + 1] = position
  return false
end

local p = 2 + references
local tallies = {}
for _ = 1, ARGV[p] do
  tallies[#tallies + 1] = { about = tonumber(ARGV[p + 1]), first = p + 3, last = p + 2 + ARGV[p + 2] }
  p = p + 2 + ARGV[p + 2]
end
p = p + 1
local count = tonumber(ARGV[p])
if count > 0 then
  local ids = {}
  for k = 1, count do ids[k] = ARGV[p + 2 * k - 1] end
  local tokens = redis.call('HMGET', leases, unpack(ids))
  local done = {}
  local has_ended = {}
  for k = 1, count do
    local token = tokens[k]
    if token == ARGV[p + 2 * k] then
      done[#done + 1] = ids[k]
      has_ended[k] = true
    elseif token and token == '-' .. ARGV[p + 2 * k] then
      -- What is left to the next call ends in it.
      has_ended[k] = true
      if take_from_lane(ids[k], p + 2 * k - 1) then counts.done = counts.done + 1 end
    end
  end
  local k = 0
  for _, tally in ipairs(tallies) do
    local counts_now = false
    for _ = 1, tally.about do
      k = k + 1
      counts_now = counts_now or has_ended[k]
    end
    if counts_now then add_tally(stats, ARGV, tally.first, tally.last) end
  end
  if #done > 0 then
    redis.call('HDEL', leases, unpack(done))
    redis.call('HDEL', messages, unpack(done))
    redis.call('ZREM', leased, unpack(done))
    counts.done = counts.done + #done
  end
end

for a = p + 2 * count + 1, #ARGV, 3 do
  local id, token, what = ARGV[a], ARGV[a + 1], ARGV[a + 2]
  local found = redis.call('HGET', leases, id)
  local message = (found == token or found == '-' .. token) and redis.call('HGET', messages, id)
  now = now or clock()
  if not message then
    if found == token then
      redis.call('HDEL', leases, id)
      redis.call('ZREM', leased, id)
    end
  elseif what == 'release' or what == 'lost' then
    local waiting, lanes
    if found == token then waiting, lanes = lane_keys(message, a) end
    if waiting then
      redis.call('HDEL', leases, id)
      redis.call('ZREM', leased, id)
      redis.call('ZADD', waiting, first_place(waiting, now), id)
      local look = look_at(lanes, KEYS[4], string.sub(reference_of(message), 2), now)
      at = math.min(at or look, look)
      if what == 'lost' then
        redis.call('HSET', messages, id, with_one_more_loss(message))
        counts.lost = counts.lost + 1
      else
        counts.released = counts.released + 1
      end
    end
  else
    local is_over = found ~= token
    -- A message of a chain is left to the next call before anything of it is changed.
    if leave_chain(id, a) and (not is_over or take_from_lane(id, a)) then
      redis.call('HSET', KEYS[8], id, string.sub(what, 2) .. '\n' .. stored_form(message))
      redis.call('ZADD', KEYS[9], now, id)
      redis.call('HDEL', leases, id)
      redis.call('HDEL', messages, id)
      redis.call('ZREM', leased, id)
      counts.dead = counts.dead + 1
    end
  end
end
if chains then
  at = math.min(at or math.huge, chains.at or math.huge)
  if at == math.huge then at = nil end
  counts.stored = chains.stored
end
local settled = 0
for name, number in pairs(counts) do
  if number > 0 then
    redis.call('HINCRBY', stats, name, number)
    if name ~= 'stored' then settled = settled + number end
  end
end
-- Whoever sleeps does not know of it.
if at then claim_by(KEYS[5], KEYS[6], at, math.huge) end
return { settled, needed, left }

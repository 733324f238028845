-- Change when messages are due, or remove them.
-- A message whose lease has run out waits, though no claim has put it back yet: that is done here.
-- KEYS[1]  messages  HASH id -> envelope and stored form
-- KEYS[2]  leased    ZSET id -> end of its lease
-- KEYS[3]  leases    HASH id -> token
-- KEYS[4]  limits    HASH lane -> its limits
-- KEYS[5]  next      STRING time of the next claim
-- KEYS[6]  wake      LIST of at most one token
-- KEYS[7]  stats     HASH of counters
-- KEYS[8]  chained, KEYS[9] chained:entries, KEYS[10] chained:heads: see chained.lua
-- KEYS[11..] for each lane reference: waiting (ZSET id -> due time), lanes of its rank (ZSET lane -> when to look at it)
-- ARGV[1]  'cancel' (what waits), 'cancel-all' (what is leased too), 'now', or a due time in Unix milliseconds
-- ARGV[2]  milliseconds: a sleeping worker looks again within this time by itself
-- ARGV[3]  the number of lane references; ARGV[4..] the references
-- then     ids
-- Returns {number of messages changed, references that were needed too, ids not changed for that, the id and the stored
--          form of each message removed}
local messages, leased, leases = KEYS[1], KEYS[2], KEYS[3]
local now = clock()
local what, references = ARGV[1], tonumber(ARGV[3])
local removes = what == 'cancel' or what == 'cancel-all'
local number_of = {}
for i = 1, references do number_of[ARGV[3 + i]] = i end
local needed, left, removed = {}, {}, {}
local changed, ran_out, at = 0, 0, nil
local due = removes and 0 or tonumber(what) or now
-- A message that is removed lets its chain go on.
local chains = removes
  and chains_of({
    messages = messages,
    leased = leased,
    leases = leases,
    limits = KEYS[4],
    order = KEYS[8],
    entries = KEYS[9],
    heads = KEYS[10],
    now = now,
    needed = needed,
    lane = function(reference)
      local number = number_of[reference]
      if number then return KEYS[9 + 2 * number], KEYS[10 + 2 * number] end
    end,
  })

for a = 4 + references, #ARGV do
  local id = ARGV[a]
  local message = redis.call('HGET', messages, id)
  if message then
    local reference = reference_of(message)
    local number = number_of[reference]
    local lease_end = redis.call('ZSCORE', leased, id)
    local may_go = not lease_end or tonumber(lease_end) <= now or what == 'cancel-all'
    if not number then
      needed[#needed + 1] = reference
      left[#left + 1] = id
    elseif removes and may_go and not chains.left(id, false) then
      left[#left + 1] = id
    elseif may_go then
      local waiting = KEYS[9 + 2 * number]
      if removes then
        removed[#removed + 1] = id
        removed[#removed + 1] = stored_form(message)
        redis.call('HDEL', messages, id)
        redis.call('HDEL', leases, id)
        redis.call('ZREM', leased, id)
        redis.call('ZREM', waiting, id)
        if redis.call('EXISTS', waiting) == 0 then redis.call('ZREM', KEYS[10 + 2 * number], string.sub(reference, 2)) end
      else
        if lease_end then
          redis.call('ZREM', leased, id)
          redis.call('HSET', messages, id, with_one_more_loss(message))
          redis.call('HSET', leases, id, '-' .. (redis.call('HGET', leases, id) or ''))
          ran_out = ran_out + 1
        end
        redis.call('ZADD', waiting, string.format('%.0f', due), id)
        local look = look_at(KEYS[10 + 2 * number], KEYS[4], string.sub(reference, 2), due)
        at = math.min(at or look, look)
      end
      changed = changed + 1
    end
  end
end
if chains and chains.at then at = math.min(at or chains.at, chains.at) end
if at then claim_by(KEYS[5], KEYS[6], at, now + ARGV[2]) end
if chains and chains.stored > 0 then redis.call('HINCRBY', KEYS[7], 'stored', chains.stored) end
if #removed > 0 then redis.call('HINCRBY', KEYS[7], 'cancelled', #removed / 2) end
if ran_out > 0 then redis.call('HINCRBY', KEYS[7], 'ran_out', ran_out) end
return { changed, needed, left, removed }

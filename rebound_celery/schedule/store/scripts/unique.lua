-- Store a message unless one with the same unique key waits: that one is then kept, or gets the new message.
-- A message that a worker holds does not wait; beside it another one is stored. This may be sent twice.
-- KEYS[1]  messages      HASH id -> envelope and stored form
-- KEYS[2]  leased        ZSET id -> end of its lease
-- KEYS[3]  leases        HASH id -> token
-- KEYS[4]  limits        HASH lane -> its limits
-- KEYS[5]  next          STRING time of the next claim
-- KEYS[6]  wake          LIST of at most one token
-- KEYS[7]  stats         HASH of counters
-- KEYS[8]  unique        HASH unique key -> when it was first stored, and the id
-- KEYS[9]  unique:times  ZSET unique key -> when to look whether its message still waits
-- KEYS[10..] for each lane reference: waiting (ZSET id -> due time), lanes of its rank (ZSET lane -> when to look at it)
-- ARGV[1]  milliseconds: a sleeping worker looks again within this time by itself
-- ARGV[2]  the unique key
-- ARGV[3]  what is done with a message that waits: 'keep' (nothing), 'replace' (it gets the new message and stays due as
--          it was) or 'extend' (it is due as the new message)
-- ARGV[4]  milliseconds from the first message to the latest due time of 'extend', also of the first one; the empty text
--          for no limit
-- ARGV[5]  a lane whose messages do not count as waiting: they were delivered, and are to be settled; or the empty text
-- ARGV[6]  id
-- ARGV[7]  due time in Unix milliseconds
-- ARGV[8]  envelope and stored form
-- ARGV[9..] the lane references; the first is that of the message
-- Returns {the id under which the message waits, 'stored', 'kept' or 'replaced', a reference that was needed too or the
--          empty text: nothing is changed then}
local messages, leased, leases, limits = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local stats, unique, times = KEYS[7], KEYS[8], KEYS[9]
local SOME = 10 -- how many unique keys are looked at whose messages may be gone
local LATER = 60000 -- milliseconds until a unique key is looked at again whose message is there
local now = clock()
local key, how, id, due, message, reference = ARGV[2], ARGV[3], ARGV[6], tonumber(ARGV[7]), ARGV[8], ARGV[9]
local number_of = {}
for i = 9, #ARGV do number_of[ARGV[i]] = i - 8 end
local function waiting_of(number) return KEYS[8 + 2 * number] end

-- Store the message under this id; what was stored there is in the lane with that number, or in none.
local function put(its_id, its_due, old_number)
  if old_number and old_number ~= 1 then redis.call('ZREM', waiting_of(old_number), its_id) end
  redis.call('HDEL', leases, its_id)
  redis.call('ZREM', leased, its_id)
  redis.call('HSET', messages, its_id, message)
  redis.call('ZADD', waiting_of(1), string.format('%.0f', its_due), its_id)
  claim_by(KEYS[5], KEYS[6], look_at(KEYS[11], limits, string.sub(reference, 2), its_due), now + ARGV[1])
end

for _, other in ipairs(redis.call('ZRANGEBYSCORE', times, '-inf', now, 'LIMIT', 0, SOME)) do
  local found = redis.call('HGET', unique, other)
  if found and redis.call('HEXISTS', messages, string.match(found, '^%d+ (.*)$')) == 1 then
    redis.call('ZADD', times, now + LATER, other)
  else
    redis.call('HDEL', unique, other)
    redis.call('ZREM', times, other)
  end
end

local record = redis.call('HGET', unique, key)
if record then
  local began, its_id = string.match(record, '^(%d+) (.*)$')
  local old = redis.call('HGET', messages, its_id)
  if old and (ARGV[5] == '' or string.sub(reference_of(old), 2) ~= ARGV[5]) then
    local number = number_of[reference_of(old)]
    if not number then return { id, '', reference_of(old) } end
    local its_due = redis.call('ZSCORE', waiting_of(number), its_id)
    if its_due then
      if how == 'keep' then return { its_id, 'kept', '' } end
      if how == 'replace' then
        due = tonumber(its_due)
      elseif ARGV[4] ~= '' then
        due = math.min(due, tonumber(began) + tonumber(ARGV[4]))
      end
      put(its_id, due, number)
      redis.call('ZADD', times, string.format('%.0f', due), key)
      redis.call('HINCRBY', stats, 'replaced', 1)
      return { its_id, 'replaced', '' }
    end
  end
end

local old = redis.call('HGET', messages, id)
local number = old and number_of[reference_of(old)]
if old and not number then return { id, '', reference_of(old) } end
if how == 'extend' and ARGV[4] ~= '' then due = math.min(due, now + tonumber(ARGV[4])) end
put(id, due, number)
redis.call('HSET', unique, key, string.format('%.0f ', now) .. id)
redis.call('ZADD', times, string.format('%.0f', due), key)
redis.call('HINCRBY', stats, old and 'replaced' or 'stored', 1)
return { id, 'stored', '' }

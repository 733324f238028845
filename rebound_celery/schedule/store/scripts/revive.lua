-- Store messages that take the place of dead letters. A dead letter that is kept here leaves in the same step; of one
-- that is kept elsewhere, the number in its series is remembered.
-- KEYS[1]  messages    HASH id -> envelope and stored form
-- KEYS[2]  limits      HASH lane -> its limits
-- KEYS[3]  next        STRING time of the next claim
-- KEYS[4]  wake        LIST of at most one token
-- KEYS[5]  stats       HASH of counters
-- KEYS[6]  dead        HASH id -> reason, line feed, stored form
-- KEYS[7]  dead:times  ZSET id -> when it died
-- KEYS[8..] for each lane reference: waiting (ZSET id -> due time), lanes of its rank (ZSET lane -> when to look at it)
-- then     for each block of a series: revived (STRING, one bit for each number)
-- ARGV[1]  milliseconds: a sleeping worker looks again within this time by itself
-- ARGV[2]  1 to store messages whose number was taken before
-- ARGV[3]  the number of lane references; ARGV[4..] the references
-- then for each message: the number of its reference, the number of its block or 0, the id of its dead letter or its bit
--          in the block, its id, due time in Unix milliseconds, envelope and stored form
-- Returns for each message 1 if it is stored, 0 if its dead letter is gone, or its number was taken before.
local messages, limits, dead, times = KEYS[1], KEYS[2], KEYS[6], KEYS[7]
local again = ARGV[2] == '1'
local references = tonumber(ARGV[3])
local first_block = 7 + 2 * references
local now = clock()
local stored, answers = 0, {}
local at

for a = 4 + references, #ARGV, 6 do
  local number, block, what, id = tonumber(ARGV[a]), tonumber(ARGV[a + 1]), ARGV[a + 2], ARGV[a + 3]
  local is_new = redis.call('HEXISTS', messages, id) == 0
  if is_new then
    if block == 0 then
      is_new = redis.call('HDEL', dead, what) == 1
      redis.call('ZREM', times, what)
    else
      is_new = redis.call('SETBIT', KEYS[first_block + block], what, 1) == 0 or again
    end
  end
  answers[#answers + 1] = is_new and 1 or 0
  if is_new then
    local waiting, lanes, due = KEYS[6 + 2 * number], KEYS[7 + 2 * number], tonumber(ARGV[a + 4])
    redis.call('HSET', messages, id, ARGV[a + 5])
    redis.call('ZADD', waiting, ARGV[a + 4], id)
    local look = look_at(lanes, limits, string.sub(ARGV[3 + number], 2), due)
    at = math.min(at or look, look)
    stored = stored + 1
  end
end
if stored > 0 then
  claim_by(KEYS[3], KEYS[4], at, now + ARGV[1])
  redis.call('HINCRBY', KEYS[5], 'stored', stored)
  redis.call('HINCRBY', KEYS[5], 'revived', stored)
end
return answers

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
-- then     if ARGV[2] is 2, for each block: revived, by the job alone
-- the last, if ARGV[3] is given: job (HASH of the job that does it)
-- ARGV[1]  milliseconds: a sleeping worker looks again within this time by itself
-- ARGV[2]  1 to store messages whose number was taken before; 2 if the job has not taken it
-- ARGV[3]  the token of the step of a job that does it, or the empty text
-- ARGV[4]  what that job remembers of messages that are on their way, or the empty text
-- ARGV[5]  the number of lane references; ARGV[6..] the references
-- then for each message: the number of its reference, the number of its block or 0, the id of its dead letter or its bit
--          in the block, the job's counter that counts it, its id, due time in Unix milliseconds, envelope and stored form
-- Returns for each message 1 if it is stored, 0 if its dead letter is gone, or its number was taken before. Returns false,
-- and stores nothing, if the job does not run any more, or another step of it has begun.
local messages, limits, dead, times = KEYS[1], KEYS[2], KEYS[6], KEYS[7]
local again = ARGV[2] == '1'
local own = ARGV[2] == '2'
local OWN_S = 2592000 -- seconds for which it is remembered what a job alone has taken
local job = ARGV[3] ~= '' and KEYS[#KEYS]
if job then
  local state = redis.call('HMGET', job, 'state', 'token')
  if state[1] ~= 'running' or state[2] ~= ARGV[3] then return false end
end
local references = tonumber(ARGV[5])
local first_block = 7 + 2 * references
local now = clock()
local stored, answers, counted = 0, {}, {}
local at

for a = 6 + references, #ARGV, 7 do
  local number, block, what, id = tonumber(ARGV[a]), tonumber(ARGV[a + 1]), ARGV[a + 2], ARGV[a + 4]
  local is_new = redis.call('HEXISTS', messages, id) == 0
  if is_new then
    if block == 0 then
      is_new = redis.call('HDEL', dead, what) == 1
      redis.call('ZREM', times, what)
    else
      is_new = redis.call('SETBIT', KEYS[first_block + block], what, 1) == 0 or again
      if own then
        local key = KEYS[first_block + (#KEYS - 1 - first_block) / 2 + block]
        is_new = redis.call('SETBIT', key, what, 1) == 0
        redis.call('EXPIRE', key, OWN_S)
      end
    end
  end
  answers[#answers + 1] = is_new and 1 or 0
  if is_new then
    local waiting, lanes, due = KEYS[6 + 2 * number], KEYS[7 + 2 * number], tonumber(ARGV[a + 5])
    redis.call('HSET', messages, id, ARGV[a + 6])
    redis.call('ZADD', waiting, ARGV[a + 5], id)
    local look = look_at(lanes, limits, string.sub(ARGV[5 + number], 2), due)
    counted[ARGV[a + 3]] = (counted[ARGV[a + 3]] or 0) + 1
    at = math.min(at or look, look)
    stored = stored + 1
  end
end
if stored > 0 then
  claim_by(KEYS[3], KEYS[4], at, now + ARGV[1])
  redis.call('HINCRBY', KEYS[5], 'stored', stored)
  redis.call('HINCRBY', KEYS[5], 'revived', stored)
end
if job then
  for name, count in pairs(counted) do redis.call('HINCRBY', job, 'n:' .. name, count) end
  redis.call('HSET', job, 'underway', ARGV[4], 'changed', now)
  -- The job makes progress, so that lost workers were not the fault of its message.
  local id = redis.call('HGET', job, 'message')
  local message = id and stored > 0 and redis.call('HGET', messages, id)
  if message then redis.call('HSET', messages, id, without_losses(message)) end
end
return answers

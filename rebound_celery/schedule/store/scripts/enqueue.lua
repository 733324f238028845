-- Store messages until they are due. An id that is stored already gets its new message and due time in the same step.
-- KEYS[1]  messages   HASH id -> stored message
-- KEYS[2]  wake       LIST of at most one token
-- KEYS[3]  waiting    ZSET of the messages' priority step
-- KEYS[4..] waiting of the other priority steps
-- ARGV[1]  milliseconds: a sleeping worker looks again within this time by itself
-- ARGV[2]  1 to keep an id that is stored already as it is, 0 to replace it
-- ARGV[3..] id, due time in Unix milliseconds, stored message; repeated
-- Returns the number of ids that were new.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local soon = now + tonumber(ARGV[1])
local keep = ARGV[2] == '1'
local added, urgent = 0, false
for i = 3, #ARGV, 3 do
  local id, due = ARGV[i], tonumber(ARGV[i + 1])
  local new
  if keep then
    new = redis.call('HSETNX', KEYS[1], id, ARGV[i + 2])
  else
    new = redis.call('HSET', KEYS[1], id, ARGV[i + 2])
    if new == 0 then
      for other = 4, #KEYS do redis.call('ZREM', KEYS[other], id) end
    end
  end
  added = added + new
  if new == 1 or not keep then
    redis.call('ZADD', KEYS[3], ARGV[i + 1], id)
    if due < soon then urgent = true end
  end
end
if urgent and redis.call('LLEN', KEYS[2]) == 0 then redis.call('LPUSH', KEYS[2], '{}') end
return added

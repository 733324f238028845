-- Change when a waiting message is due, or remove it; a leased one is removed too, but keeps its lease when moved.
-- One whose lease has run out waits. What was lost before still counts: see `waiting` in keys.py.
-- KEYS[1]  messages   HASH id -> stored message
-- KEYS[2]  wake       LIST of at most one token
-- KEYS[3..] waiting   ZSET of each priority step
-- ARGV[1]  'remove', 'now', or the due time in Unix milliseconds
-- ARGV[2..] ids
-- Returns the number of messages that were changed.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local due = ARGV[1]
if due == 'now' then due = now end
local changed = 0
for i = 2, #ARGV do
  local id = ARGV[i]
  if ARGV[1] == 'remove' then
    changed = changed + redis.call('HDEL', KEYS[1], id)
    for step = 3, #KEYS do redis.call('ZREM', KEYS[step], id) end
  else
    for step = 3, #KEYS do
      local score = tonumber(redis.call('ZSCORE', KEYS[step], id) or 'nan')
      if score == score and (score % 1 == 0 or score % 1 >= 0.5 or score <= now) then
        local had, moved = math.floor((score % 0.5) * 1024 + 0.5), due
        -- Within the last millisecond before: who claims looks at whole ones, so it is due when it should be.
        if had > 0 then moved = string.format('%.10f', due - 1 + 0.5 + had / 1024) end
        redis.call('ZADD', KEYS[step], moved, id)
        changed = changed + 1
      end
    end
  end
end
if changed > 0 and ARGV[1] ~= 'remove' and redis.call('LLEN', KEYS[2]) == 0 then redis.call('LPUSH', KEYS[2], '{}') end
return changed

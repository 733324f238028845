-- Remove messages that no worker holds; one whose lease has run out is held no more.
-- KEYS[1]  messages   HASH id -> stored message
-- KEYS[2..] waiting   ZSET of each priority step
-- ARGV     ids
-- Returns the stored message of each that was removed.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local removed = {}
for i = 1, #ARGV do
  for step = 2, #KEYS do
    local score = tonumber(redis.call('ZSCORE', KEYS[step], ARGV[i]) or 'nan')
    if score == score and (score % 1 == 0 or score % 1 >= 0.5 or score <= now) then
      removed[#removed + 1] = redis.call('HGET', KEYS[1], ARGV[i]) or ''
      redis.call('HDEL', KEYS[1], ARGV[i])
      redis.call('ZREM', KEYS[step], ARGV[i])
      break
    end
  end
end
return removed

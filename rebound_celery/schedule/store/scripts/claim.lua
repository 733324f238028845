-- Lease what is due: its score becomes the end of the lease, with a fraction that counts the leases it has had.
-- KEYS[1]  messages   HASH id -> stored message
-- KEYS[2]  wake       LIST of at most one token
-- KEYS[3]  dead       HASH id -> reason, line feed, stored message
-- KEYS[4..] waiting   ZSET of each priority step, the most urgent first
-- ARGV[1]  lease in milliseconds
-- ARGV[2]  at most this many messages
-- ARGV[3]  after this many leases that ran out a message is dead
-- Returns {milliseconds until the next one is due or -1, ids that died, then id, stored message, earlier leases, ...}
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local lease, limit, losses = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local reply, dead = { -1, {} }, {}
local nearest
for step = 4, #KEYS do
  -- One more than may be taken: it tells when the next one is due.
  local found = redis.call('ZRANGE', KEYS[step], 0, limit, 'WITHSCORES')
  local all_gone = #found > 2 * limit
  for i = 1, #found, 2 do
    local id, score = found[i], tonumber(found[i + 1])
    if score > now or limit == 0 then
      if nearest == nil or score < nearest then nearest = score end
      all_gone = false
      break
    end
    local stored = redis.call('HGET', KEYS[1], id)
    local had = math.floor((score % 0.5) * 1024 + 0.5)
    if not stored then
      redis.call('ZREM', KEYS[step], id)
    elseif had >= losses then
      redis.call('HSET', KEYS[3], id, 'worker-lost\n' .. stored)
      redis.call('HDEL', KEYS[1], id)
      redis.call('ZREM', KEYS[step], id)
      dead[#dead + 1] = id
    else
      redis.call('ZADD', KEYS[step], string.format('%.10f', now + lease + math.min(had + 1, 511) / 1024), id)
      reply[#reply + 1] = id
      reply[#reply + 1] = stored
      reply[#reply + 1] = had
      limit = limit - 1
    end
  end
  if all_gone then
    -- Some of them were dead or without a message, so the one more was needed for them: who is next now?
    local head = redis.call('ZRANGE', KEYS[step], 0, 0, 'WITHSCORES')
    if head[2] and (nearest == nil or tonumber(head[2]) < nearest) then nearest = tonumber(head[2]) end
  end
end
reply[2] = dead
if nearest then reply[1] = math.max(0, math.ceil(nearest - now)) end
-- Another worker may be asleep while this one cannot take them all.
if reply[1] == 0 and redis.call('LLEN', KEYS[2]) == 0 then redis.call('LPUSH', KEYS[2], '{}') end
return reply

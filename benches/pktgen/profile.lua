-- The common part of all profiles: Pktgen-DPDK sends frames of one size to a gateway's port, at rising shares of the line rate,
-- and prints the frames sent and received at each rate. The frames are garbage to the gateway, which drops and counts them
-- (drop_not_quic, drop_no_connection): compare with the counters that the gateway prints when it ends.
--
-- Pktgen-DPDK is not in Debian. Run with its version 24.03, on DPDK 22.11. It does not end by itself: end it at "profile ended".
--
-- Set by environment: STOQ_DST_MAC and STOQ_DST_IP of the gateway, STOQ_SRC_MAC, STOQ_SRC_IP with its prefix length, STOQ_SECONDS of
-- each rate.

local M = {}

local function setting(name, fallback)
	return os.getenv(name) or fallback
end

local seconds = tonumber(setting("STOQ_SECONDS", "10"))
local destination_mac = setting("STOQ_DST_MAC", "02:00:00:00:00:01")
local source_mac = setting("STOQ_SRC_MAC", "02:00:00:00:00:02")
local destination_ip = setting("STOQ_DST_IP", "10.77.0.1")
local source_ip = setting("STOQ_SRC_IP", "10.77.0.2/24")
M.udp_port = 4433
M.rates = { 1, 5, 10, 25, 50, 75, 100 }

-- The fields that all frames of a port share.
function M.address(port)
	pktgen.set_mac(port, "dst", destination_mac)
	pktgen.set_ipaddr(port, "dst", destination_ip)
	pktgen.set_ipaddr(port, "src", source_ip)
	pktgen.set_type(port, "ipv4")
	pktgen.set_proto(port, "udp")
	pktgen.set(port, "dport", M.udp_port)
	pktgen.set(port, "sport", M.udp_port)
	pktgen.set(port, "count", 0)
end

-- One table of a sequence: a frame of this size, check sequence included.
function M.frame(size)
	return {
		eth_dst_addr = destination_mac,
		eth_src_addr = source_mac,
		ip_dst_addr = destination_ip,
		ip_src_addr = source_ip,
		sport = M.udp_port,
		dport = M.udp_port,
		ethType = "ipv4",
		ipProto = "udp",
		vlanid = 1,
		pktSize = size,
	}
end

-- Sends at every rate in turn; the output contains `name`.
function M.run(port, name)
	local index = tonumber(port)
	for _, rate in ipairs(M.rates) do
		pktgen.clr()
		pktgen.set(port, "rate", rate)
		pktgen.start(port)
		pktgen.delay(seconds * 1000)
		pktgen.stop(port)
		-- RFC 2544 section 26.1: frames in flight have time to arrive.
		pktgen.delay(2000)
		local counts = pktgen.portStats(port, "port")[index]
		print(string.format(
			'{"tester":"pktgen-dpdk","frames":"%s","rate_percent":%g,"seconds":%g,"sent":%d,"back":%d,"errors":%d}',
			name, rate, seconds, counts.opackets, counts.ipackets, counts.oerrors))
	end
	print("profile ended")
end

-- A profile of one size.
function M.single(size)
	local port = "0"
	pktgen.screen("off")
	M.address(port)
	pktgen.set(port, "size", size)
	M.run(port, tostring(size))
end

return M

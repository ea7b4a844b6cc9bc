/* SPDX-License-Identifier: Apache-2.0
 *
 * capture.c - opening a capture by its magic number, and what both formats share.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "capture_reader.h"

void pal_capture_stop(pal_capture *c, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(c->warning, sizeof c->warning, format, args);
    va_end(args);
    c->done = true;
}

pal_capture *pal_capture_open(const uint8_t *map, size_t len, char *err, size_t errlen)
{
    if (map == NULL || len == 0) {
        snprintf(err, errlen, "the file is empty");
        return NULL;
    }
    if (len < 4) {
        snprintf(err, errlen, "the file has only %zu bytes, too few for a capture", len);
        return NULL;
    }
    pal_capture *c = calloc(1, sizeof *c);
    if (c == NULL) {
        snprintf(err, errlen, "no memory for a capture reader");
        return NULL;
    }
    c->map = map;
    c->len = len;
    /* The first four bytes of pcapng read the same in both byte orders. */
    bool good = load_be32(map) == 0x0a0d0d0a ? pal_pcapng_read_open(c, err, errlen) : pal_pcap_open(c, err, errlen);
    if (!good) {
        free(c);
        return NULL;
    }
    return c;
}

uint32_t pal_capture_next(pal_capture *c, pal_frame *out, uint32_t max)
{
    return c->done ? 0 : c->next(c, out, max);
}

const char *pal_capture_warning(const pal_capture *c)
{
    return c->warning[0] != '\0' ? c->warning : NULL;
}

void pal_capture_close(pal_capture *c)
{
    free(c);
}

const char *pal_linktype_name(uint32_t linktype)
{
    switch (linktype) {
    case 0: return "NULL";
    case 1: return "ETHERNET";
    case 3: return "AX25";
    case 6: return "IEEE802_5";
    case 7: return "ARCNET_BSD";
    case 8: return "SLIP";
    case 9: return "PPP";
    case 10: return "FDDI";
    case 50: return "PPP_HDLC";
    case 51: return "PPP_ETHER";
    case 99: return "SYMANTEC_FIREWALL";
    case 100: return "ATM_RFC1483";
    case 101: return "RAW";
    case 104: return "C_HDLC";
    case 105: return "IEEE802_11";
    case 107: return "FRELAY";
    case 108: return "LOOP";
    case 109: return "ENC";
    case 113: return "LINUX_SLL";
    case 114: return "LTALK";
    case 117: return "PFLOG";
    case 119: return "IEEE802_11_PRISM";
    case 122: return "IP_OVER_FC";
    case 123: return "SUNATM";
    case 127: return "IEEE802_11_RADIOTAP";
    case 129: return "ARCNET_LINUX";
    case 130: return "JUNIPER_MLPPP";
    case 131: return "JUNIPER_MLFR";
    case 133: return "JUNIPER_GGSN";
    case 134: return "JUNIPER_MFR";
    case 135: return "JUNIPER_ATM2";
    case 137: return "JUNIPER_ATM1";
    case 138: return "APPLE_IP_OVER_IEEE1394";
    case 139: return "MTP2_WITH_PHDR";
    case 140: return "MTP2";
    case 141: return "MTP3";
    case 142: return "SCCP";
    case 143: return "DOCSIS";
    case 144: return "LINUX_IRDA";
    case 163: return "IEEE802_11_AVS";
    case 166: return "PPP_PPPD";
    case 169: return "GPRS_LLC";
    case 177: return "LINUX_LAPD";
    case 178: return "JUNIPER_ETHER";
    case 179: return "JUNIPER_PPP";
    case 180: return "JUNIPER_FRELAY";
    case 181: return "JUNIPER_CHDLC";
    case 187: return "BLUETOOTH_HCI_H4";
    case 189: return "USB_LINUX";
    case 192: return "PPI";
    case 195: return "IEEE802_15_4_WITHFCS";
    case 197: return "ERF";
    case 201: return "BLUETOOTH_HCI_H4_WITH_PHDR";
    case 202: return "AX25_KISS";
    case 203: return "LAPD";
    case 204: return "PPP_WITH_DIR";
    case 205: return "C_HDLC_WITH_DIR";
    case 206: return "FRELAY_WITH_DIR";
    case 209: return "IPMB_LINUX";
    case 215: return "IEEE802_15_4_NONASK_PHY";
    case 220: return "USB_LINUX_MMAPPED";
    case 224: return "FC_2";
    case 225: return "FC_2_WITH_FRAME_DELIMS";
    case 226: return "IPNET";
    case 227: return "CAN_SOCKETCAN";
    case 228: return "IPV4";
    case 229: return "IPV6";
    case 230: return "IEEE802_15_4_NOFCS";
    case 231: return "DBUS";
    case 235: return "DVB_CI";
    case 236: return "MUX27010";
    case 237: return "STANAG_5066_D_PDU";
    case 239: return "NFLOG";
    case 240: return "NETANALYZER";
    case 241: return "NETANALYZER_TRANSPARENT";
    case 242: return "IPOIB";
    case 243: return "MPEG_2_TS";
    case 244: return "NG40";
    case 245: return "NFC_LLCP";
    case 247: return "INFINIBAND";
    case 248: return "SCTP";
    case 249: return "USBPCAP";
    case 250: return "RTAC_SERIAL";
    case 251: return "BLUETOOTH_LE_LL";
    case 252: return "WIRESHARK_UPPER_PDU";
    case 253: return "NETLINK";
    case 254: return "BLUETOOTH_LINUX_MONITOR";
    case 255: return "BLUETOOTH_BREDR_BB";
    case 256: return "BLUETOOTH_LE_LL_WITH_PHDR";
    case 257: return "PROFIBUS_DL";
    case 258: return "PKTAP";
    case 259: return "EPON";
    case 260: return "IPMI_HPM_2";
    case 261: return "ZWAVE_R1_R2";
    case 262: return "ZWAVE_R3";
    case 263: return "WATTSTOPPER_DLM";
    case 264: return "ISO_14443";
    case 265: return "RDS";
    case 266: return "USB_DARWIN";
    case 268: return "SDLC";
    case 270: return "LORATAP";
    case 271: return "VSOCK";
    case 272: return "NORDIC_BLE";
    case 273: return "DOCSIS31_XRA31";
    case 274: return "ETHERNET_MPACKET";
    case 275: return "DISPLAYPORT_AUX";
    case 276: return "LINUX_SLL2";
    case 279: return "EBHSCR";
    case 280: return "VPP_DISPATCH";
    case 281: return "DSA_TAG_BRCM";
    case 282: return "DSA_TAG_BRCM_PREPEND";
    case 283: return "IEEE802_15_4_TAP";
    case 284: return "DSA_TAG_DSA";
    case 285: return "DSA_TAG_EDSA";
    case 286: return "ELEE";
    case 287: return "Z_WAVE_SERIAL";
    case 288: return "USB_2_0";
    case 289: return "ATSC_ALP";
    case 290: return "ETW";
    default: return linktype >= 147 && linktype <= 162 ? "USER" : "unknown";
    }
}
